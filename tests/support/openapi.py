"""What the server's HTTP takes, as an OpenAPI description. Tests make requests from it, good ones and bad ones."""

from typing import Any

TEXT = {"type": "string", "maxLength": 200}
FLAG = {"type": "boolean"}
MODEL = {"type": "string", "enum": ["tiny", "gpt-oss-20b", "openai/gpt-oss-20b"]}
FEW = {"type": "integer", "minimum": 1, "maximum": 8}
EFFORT = {"type": "string", "enum": ["none", "minimal", "low", "medium", "high", "xhigh", "max"]}
SCHEMA = {
    "type": "object",
    "properties": {
        "type": {"const": "object"},
        "properties": {
            "type": "object",
            "maxProperties": 3,
            "additionalProperties": {"$ref": "#/components/schemas/Leaf"},
        },
    },
    "required": ["type", "properties"],
}
LEAF = {
    "type": "object",
    "properties": {"type": {"enum": ["string", "integer", "boolean", "null"]}},
    "required": ["type"],
}
SAMPLING = {
    "temperature": {"type": "number", "minimum": 0, "maximum": 2},
    "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    "seed": {"type": "integer"},
    "stream": FLAG,
}


def record(properties: dict[str, Any], *required: str, closed: bool = False) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "object", "properties": properties, "required": list(required)}
    return found | ({"additionalProperties": False} if closed else {})


def listed(items: dict[str, Any], least: int = 0, most: int = 4) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


FUNCTION = {"name": {"type": "string", "pattern": "^[a-z_]{1,20}$"}, "description": TEXT, "parameters": SCHEMA}
PARTS = {"oneOf": [TEXT, listed(record({"type": {"const": "text"}, "text": TEXT}, "type", "text"))]}
CALL = record({"id": TEXT, "type": {"const": "function"}, "function": record({"name": TEXT, "arguments": TEXT})}, "id")
CHAT_MESSAGE = record(
    {
        "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
        "content": PARTS,
        "tool_calls": listed(CALL),
        "tool_call_id": TEXT,
        "reasoning_content": TEXT,
    },
    "role",
)
CHAT = record(
    {
        **SAMPLING,
        "model": MODEL,
        "messages": listed(CHAT_MESSAGE, 1),
        "max_tokens": FEW,
        "n": {"type": "integer", "minimum": 1, "maximum": 3},
        "stop": {"oneOf": [TEXT, listed(TEXT)]},
        "reasoning_effort": EFFORT,
        "tools": listed(
            record({"type": {"const": "function"}, "function": record(FUNCTION, "name")}, "type", "function")
        ),
        "tool_choice": {"enum": ["auto", "none", "required"]},
        "response_format": record({"type": {"enum": ["text", "json_object", "json_schema"]}}, "type"),
        "stream_options": record({"include_usage": FLAG}),
        "logprobs": FLAG,
        "top_logprobs": {"type": "integer", "minimum": 0, "maximum": 20},
        "presence_penalty": {"type": "number", "minimum": -2, "maximum": 2},
        "frequency_penalty": {"type": "number", "minimum": -2, "maximum": 2},
        "logit_bias": {"type": "object", "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100}},
    },
    "messages",
    "max_tokens",
)
ITEM = {
    "oneOf": [
        record(
            {"type": {"const": "message"}, "role": {"enum": ["user", "assistant", "system"]}, "content": TEXT},
            "role",
            "content",
        ),
        record(
            {"type": {"const": "function_call"}, "call_id": TEXT, "name": TEXT, "arguments": TEXT},
            "type",
            "call_id",
            "name",
        ),
        record(
            {"type": {"const": "function_call_output"}, "call_id": TEXT, "output": TEXT}, "type", "call_id", "output"
        ),
        record({"type": {"const": "reasoning"}, "summary": listed(TEXT), "encrypted_content": TEXT}, "type"),
    ]
}
RESPONSE = record(
    {
        **SAMPLING,
        "model": MODEL,
        "input": {"oneOf": [TEXT, listed(ITEM)]},
        "instructions": TEXT,
        "max_output_tokens": FEW,
        "previous_response_id": TEXT,
        "reasoning": record({"effort": EFFORT, "summary": {"enum": ["auto", "concise", "detailed"]}}),
        "tools": listed(
            record({"type": {"enum": ["function", "web_search", "custom", "namespace"]}, **FUNCTION}, "type", "name")
        ),
        "store": FLAG,
        "include": listed({"enum": ["reasoning.encrypted_content", "message.output_text.logprobs"]}),
        "text": record({"format": record({"type": {"enum": ["text", "json_object", "json_schema"]}}, "type")}),
    },
    "input",
    "max_output_tokens",
)
BLOCK = record(
    {"type": {"enum": ["text", "thinking", "tool_use", "tool_result", "image"]}, "text": TEXT, "id": TEXT}, "type"
)
CLAUDE = record(
    {
        **SAMPLING,
        "model": TEXT,
        "system": PARTS,
        "messages": listed(
            record(
                {"role": {"enum": ["user", "assistant"]}, "content": {"oneOf": [TEXT, listed(BLOCK)]}},
                "role",
                "content",
            ),
            1,
        ),
        "max_tokens": FEW,
        "stop_sequences": listed(TEXT),
        "thinking": record(
            {"type": {"enum": ["enabled", "adaptive", "disabled"]}, "budget_tokens": {"type": "integer"}}, "type"
        ),
        "tools": listed(record({"name": TEXT, "description": TEXT, "input_schema": SCHEMA}, "name", "input_schema")),
    },
    "messages",
    "max_tokens",
)
COMPLETION = record(
    {
        **SAMPLING,
        "model": MODEL,
        "prompt": {"oneOf": [TEXT, listed({"type": "integer", "minimum": 0, "maximum": 300}, 1, 9)]},
        "max_tokens": {"type": "integer", "minimum": 0, "maximum": 8},
        "echo": FLAG,
        "logprobs": {"type": "integer", "minimum": 0, "maximum": 5},
        "stop": TEXT,
    },
    "prompt",
    "max_tokens",
)


def description() -> dict[str, Any]:
    """Return the description of every path."""
    ids = [
        {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1, "maxLength": 60}}
    ]
    answers = {"default": {"description": "An answer or an error."}}

    def post(schema: dict[str, Any]) -> dict[str, Any]:
        body = {"required": True, "content": {"application/json": {"schema": schema}}}
        return {"post": {"requestBody": body, "responses": answers}}

    def plain(*methods: str, parameters: Any = ()) -> dict[str, Any]:
        return {method: {"parameters": list(parameters), "responses": answers} for method in methods}

    paths = {
        "/v1/chat/completions": post(CHAT),
        "/v1/responses": post(RESPONSE),
        "/v1/responses/{id}": plain("get", "delete", parameters=ids),
        "/v1/responses/{id}/cancel": plain("post", parameters=ids),
        "/v1/responses/{id}/input_items": plain("get", parameters=ids),
        "/v1/messages": post(CLAUDE),
        "/v1/messages/count_tokens": post(CLAUDE),
        "/v1/completions": post(COMPLETION),
        "/v1/models": plain("get"),
        "/v1/models/{id}": plain("get", parameters=ids),
        "/health": plain("get"),
        "/api/tags": plain("get"),
        "/api/version": plain("get"),
        "/": plain("get"),
    }
    about = {"title": "gptoss-mac", "version": "1"}
    return {"openapi": "3.1.0", "info": about, "paths": paths, "components": {"schemas": {"Leaf": LEAF}}}
