"""JSON Schema, regexes and Lark grammars made into constraints of the engine.

``Grammar`` is a checked text, ``Vocabulary`` what a model's tokens spell, and ``Vocabulary.constraint`` joins the two
for one row. Knows no messages and no model.
"""

from gptoss_mlx.grammars.grammar import Grammar, from_lark, from_regex
from gptoss_mlx.grammars.json_schema import from_schema, json_object
from gptoss_mlx.grammars.vocabulary import Vocabulary

__all__ = ["Grammar", "Vocabulary", "from_lark", "from_regex", "from_schema", "json_object"]
