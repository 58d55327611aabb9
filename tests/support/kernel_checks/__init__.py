"""What shaders have to satisfy, as functions of a folder of shaders, so that mutants can be put to them too: one module
to a family of shaders. The definitions are in float64 numpy, written from the formulas; they share nothing with the
packages under test."""
