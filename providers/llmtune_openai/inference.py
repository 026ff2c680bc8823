"""How a model is asked through the `openai` package, for people."""

from __future__ import annotations


def snippet(model: str, *, base_url: str | None, key_variable: str | None, comment: str = "") -> str:
    """Return a few lines of Python that ask a model.

    Args:
        model: the id that the service knows.
        base_url: address of the service; None leaves it to the package.
        key_variable: the environment variable that holds the key; None leaves it to the package.
        comment: stands behind the model's line.
    """
    arguments = [f"base_url={base_url!r}"] if base_url else []
    if key_variable:
        arguments.append(f"api_key=os.environ[{key_variable!r}]")
    return "\n".join(
        [
            *(["import os", ""] if key_variable else []),
            "from openai import OpenAI",
            "",
            f"client = OpenAI({', '.join(arguments)})",
            "answer = client.chat.completions.create(",
            f"    model={model!r},{comment and f'  # {comment}'}",
            '    messages=[{"role": "user", "content": "Hello"}],',
            ")",
            "print(answer.choices[0].message.content)",
        ]
    )
