"""What a person sees of a reply on a terminal: text in, text with control sequences out. Knows no model."""
