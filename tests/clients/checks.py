"""What each client library does with a server. Runs where the libraries are installed, and imports nothing of ours.

With the name of a check and a server's URL as arguments it runs that check, and exits with 1 if the answer is wrong.
Without arguments it lists the checks.
"""

import asyncio
import os
import subprocess
import sys

SUM = "What is 12 + 30?"


def expect(found: object, wanted: str = "42") -> None:
    """Fail unless the answer has what is wanted."""
    if wanted not in str(found):
        sys.exit(f"{wanted!r} is not in {str(found)[:200]!r}")


def openai_chat(url: str) -> None:
    from openai import OpenAI

    client = OpenAI(base_url=f"{url}/v1", api_key="none")
    messages = [{"role": "user", "content": SUM}]
    with client.chat.completions.stream(model="m", messages=messages, temperature=0) as stream:
        expect(stream.get_final_completion().choices[0].message.content)


def openai_responses(url: str) -> None:
    from openai import OpenAI

    client = OpenAI(base_url=f"{url}/v1", api_key="none")
    first = client.responses.create(model="m", input=SUM, temperature=0)
    expect(first.output_text)
    with client.responses.stream(
        model="m", input="and plus 10?", previous_response_id=first.id, temperature=0
    ) as stream:
        expect(stream.get_final_response().output_text, "52")


def openai_async(url: str) -> None:
    from openai import AsyncOpenAI

    async def ask() -> None:
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
            asks = [client.responses.create(model="m", input=f"What is {n} + 30?", temperature=0) for n in (12, 22, 32)]
            for wanted, done in zip(("42", "52", "62"), await asyncio.gather(*asks), strict=True):
                expect(done.output_text, wanted)

    asyncio.run(ask())


def structured(url: str) -> None:
    """OpenAI's client makes a schema of a Pydantic model, and reads the answer as one, at a temperature at which the
    model writes no JSON by itself."""
    from openai import OpenAI
    from pydantic import BaseModel, Field

    class Sum(BaseModel):
        sum: int = Field(ge=0, le=999)
        terms: list[int] = Field(max_length=3)
        sure: bool

    client = OpenAI(base_url=f"{url}/v1", api_key="none")
    asked = {"model": "m", "temperature": 1.5, "extra_body": {"reasoning": {"max_tokens": 50}}}
    messages = [{"role": "user", "content": SUM}]
    for _ in range(3):
        chat = client.chat.completions.parse(**asked, messages=messages, response_format=Sum)
        expect(type(chat.choices[0].message.parsed).__name__, "Sum")
        response = client.responses.parse(**asked, input=SUM, text_format=Sum)
        expect(type(response.output_parsed).__name__, "Sum")


def langchain_structured(url: str) -> None:
    """LangChain asks for a value by a schema, and by a function that must be called."""
    from langchain_openai import ChatOpenAI
    from pydantic import BaseModel, Field

    class Sum(BaseModel):
        """The sum that was asked for."""

        sum: int = Field(ge=0, le=999)

    model = ChatOpenAI(base_url=f"{url}/v1", api_key="none", model="m", temperature=1.5)
    for method in ("json_schema", "function_calling"):
        found = model.with_structured_output(Sum, method=method).invoke(SUM)
        expect(type(found).__name__, "Sum")


def agents(url: str, *, chat: bool = False) -> None:
    """An agent of OpenAI's SDK calls the tool that the bundled model was trained with, and answers with its result."""
    from agents import (
        Agent,
        ModelSettings,
        OpenAIChatCompletionsModel,
        OpenAIResponsesModel,
        Runner,
        function_tool,
        set_tracing_disabled,
    )
    from openai import AsyncOpenAI

    set_tracing_disabled(True)
    called = []

    @function_tool(strict_mode=False)
    def calculate(expression: str) -> str:
        """Evaluates an arithmetic expression.

        Args:
            expression: The expression, such as 12*34.
        """
        called.append(expression)
        left, _, right = expression.partition("*")
        return str(int(left) * int(right))

    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none")
    model = (OpenAIChatCompletionsModel if chat else OpenAIResponsesModel)(model="m", openai_client=client)
    agent = Agent(name="a", model=model, tools=[calculate], model_settings=ModelSettings(temperature=0))
    expect(Runner.run_sync(agent, "What is 12 * 34?").final_output, "408")
    expect(called, "12")


def agents_chat(url: str) -> None:
    agents(url, chat=True)


def anthropic_messages(url: str) -> None:
    from anthropic import Anthropic

    client = Anthropic(base_url=url, api_key="none")
    asked = {"model": "claude-sonnet-5", "max_tokens": 300, "messages": [{"role": "user", "content": SUM}]}
    with client.messages.stream(**asked, thinking={"type": "adaptive"}) as stream:
        blocks = stream.get_final_message().content
    expect([block.type for block in blocks], "thinking")
    expect(blocks[-1].text)


def langchain_openai(url: str) -> None:
    from langchain_openai import ChatOpenAI

    for responses in (False, True):
        model = ChatOpenAI(base_url=f"{url}/v1", api_key="none", model="m", temperature=0, use_responses_api=responses)
        expect(model.invoke(SUM).content)
        expect("".join(str(chunk.text) for chunk in model.stream(SUM)))


def langchain_anthropic(url: str) -> None:
    from langchain_anthropic import ChatAnthropic

    model = ChatAnthropic(base_url=url, api_key="none", model="m", max_tokens=300)
    expect(model.invoke(SUM).content)


def litellm_chat(url: str) -> None:
    import litellm

    messages = [{"role": "user", "content": SUM}]
    asked = {"model": "openai/gpt-oss-20b", "api_base": f"{url}/v1", "api_key": "none", "messages": messages}
    expect(litellm.completion(**asked, temperature=0).choices[0].message.content)
    chunks = litellm.completion(**asked, temperature=0, stream=True)
    expect("".join(chunk.choices[0].delta.content or "" for chunk in chunks))


def litellm_anthropic(url: str) -> None:
    import litellm

    messages = [{"role": "user", "content": SUM}]
    expect(
        litellm.completion(
            model="anthropic/claude-sonnet-4-5", api_base=url, api_key="none", messages=messages, max_tokens=300
        )
        .choices[0]
        .message.content
    )


def llm(url: str) -> None:
    """Simon Willison's program, with a model of its own configuration."""
    home = os.environ["LLM_USER_PATH"]
    with open(f"{home}/extra-openai-models.yaml", "w") as file:
        file.write(f"- model_id: local\n  model_name: gpt-oss-20b\n  api_base: {url}/v1\n  api_key_name: local\n")
    program = os.path.join(os.path.dirname(sys.executable), "llm")
    command = [program, "-m", "local", "--key", "none", "-o", "temperature", "0", SUM]
    expect(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


CHECKS = {
    "openai-chat": openai_chat,
    "openai-responses": openai_responses,
    "openai-async": openai_async,
    "openai-structured": structured,
    "openai-agents-responses": agents,
    "openai-agents-chat": agents_chat,
    "anthropic": anthropic_messages,
    "langchain-openai": langchain_openai,
    "langchain-openai-structured": langchain_structured,
    "langchain-anthropic": langchain_anthropic,
    "litellm-openai": litellm_chat,
    "litellm-anthropic": litellm_anthropic,
    "llm": llm,
}

if __name__ == "__main__":
    if len(sys.argv) == 1:
        print(*CHECKS, sep="\n")
    else:
        CHECKS[sys.argv[1]](sys.argv[2])
