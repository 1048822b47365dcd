"""An agent with tools: the model chooses a tool, the program runs it, until the model can answer.

The spans are a workflow, the agent in it, and below the agent each call of the model and each tool.
A JSON schema restricts what the model may choose, so small models without tool calling work, too.
The metrics of the agent count its calls of models and of tools.

    pip install llamatelemetry openai
    export OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=none
    llamatelemetry run -- python examples/agent.py "How many moons does Jupiter have?"
"""

import json
import sys
from typing import Any

from openai import OpenAI

from llamatelemetry import tool, workflow
from llamatelemetry.pipeline import agent

MOONS = {"Mercury": 0, "Venus": 0, "Earth": 1, "Mars": 2, "Jupiter": 97, "Saturn": 274}
TOOLS = "Tools: count_moons returns the moons of planets; finish if the facts answer the question."
MAX_STEPS = 3


@tool
def count_moons(planets: list[str]) -> dict[str, int]:
    """Return the number of known moons of each planet."""
    return {planet: MOONS[planet] for planet in planets}


def choices(may_finish: bool) -> dict[str, Any]:
    """Return the response format: a tool with its arguments, or the end."""
    planets = {"type": "array", "items": {"enum": list(MOONS)}, "minItems": 1, "maxItems": 3}
    names = ["count_moons", "finish"] if may_finish else ["count_moons"]
    schema = {
        "type": "object",
        "properties": {"tool": {"enum": names}, "planets": planets},
        "required": ["tool", "planets"],
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": "choice", "schema": schema}}


@agent
def astronomer(client: OpenAI, model: str, question: str) -> str:
    """Call tools until the model finishes, then answer from the facts that they returned."""
    facts: dict[str, int] = {}

    def ask(task: str, **more: Any) -> str:
        content = f"Facts, as moons by planet: {json.dumps(facts)}\nQuestion: {question}\n{task}"
        messages: list[Any] = [{"role": "user", "content": content}]
        response = client.chat.completions.create(
            model=model, messages=messages, temperature=0, max_tokens=128, **more
        )
        return response.choices[0].message.content or ""

    for step in range(MAX_STEPS):
        choice = json.loads(ask(TOOLS, response_format=choices(may_finish=step > 0)))
        if choice["tool"] == "finish":
            break
        facts |= count_moons(choice["planets"])
        print(f"facts: {facts}")
    return ask("Answer the question in one sentence.")


@workflow
def main() -> None:
    """Run the agent with the question in the arguments."""
    with OpenAI() as client:
        model = client.models.list().data[0].id
        question = " ".join(sys.argv[1:]) or "How many moons does Jupiter have?"
        print(f"answer: {astronomer(client, model, question)}")


if __name__ == "__main__":
    main()
