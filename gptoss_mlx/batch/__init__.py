"""Answer a file of prompts into a file of answers, as ``gptoss-mac batch`` does.

``source`` reads the lines. ``run`` answers them with the engine. ``answers`` writes the results so that a killed run
can resume. ``companions`` checks the files beside the answers. The package knows nothing of terminals.
"""
