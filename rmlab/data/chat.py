"""Examples -> texts: a prompt and its completions as strings, conversations through the tokenizer's chat template.

What cannot be rendered is set aside with a reason and never raises, except a template that is no Jinja at all: that is
the request's fault, not the row's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from jinja2 import TemplateError, TemplateSyntaxError
from transformers import PreTrainedTokenizerBase

from rmlab.batch import Example, Text
from rmlab.errors import UsageError

# Conversations where the tokenizer has no chat template: the dialogue form of HH-RLHF.
PLAIN_TEMPLATE = (
    "{% for m in messages %}"
    "{{ '\\n\\n' + {'user': 'Human', 'assistant': 'Assistant'}.get(m.role, m.role | capitalize) + ': ' + m.content }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n\\nAssistant: ' }}{% endif %}"
)


@final
class Unusable(Exception):
    """An example that gives no record; its text is the reason that the data account counts it under."""


@final
class Chat:
    """How examples become texts. template: Jinja text, the path of a file, or None for the tokenizer's own.

    Raises `UsageError` for a path that does not exist.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str | None) -> None:
        self.tokenizer = tokenizer
        self.template = _given(template) or tokenizer.chat_template or PLAIN_TEMPLATE

    def render(self, example: Example) -> tuple[str, list[str]]:
        """Returns the prompt's text and each completion's. Raises `Unusable` if the template does not take them."""
        if isinstance(example.prompt, str):
            return example.prompt, [_plain(c.text) for c in example.completions]
        prompt = self._apply(list(example.prompt), example.chat, add_generation_prompt=True)
        wholes = [
            self._apply([*example.prompt, *_messages(c.text)], example.chat, add_generation_prompt=False)
            for c in example.completions
        ]
        # A template may write the last turn otherwise once it is answered (a thinking block, say): what all share is
        # the prompt, so that prompt + completion is always the whole conversation as the template writes it.
        prompt = _shared_start([prompt, *wholes])
        return prompt, [whole[len(prompt) :] for whole in wholes]

    def _apply(self, messages: list[Any], chat: Mapping[str, Any], *, add_generation_prompt: bool) -> str:
        if self.template is PLAIN_TEMPLATE and chat.get("tools"):
            raise Unusable("tools without a chat template")
        arguments = {
            **chat,
            "chat_template": self.template,
            "tokenize": False,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            return str(self.tokenizer.apply_chat_template(messages, **arguments))
        except TemplateSyntaxError as error:
            raise UsageError(
                f"data.chat_template is not Jinja: {error.message}; mend line {error.lineno} of it"
            ) from None
        except (TemplateError, TypeError) as error:  # its own raise_exception, or a content it cannot join, as None
            raise Unusable(f"refused by the chat template: {str(error).splitlines()[0]}") from None


def start_of(text: Text, rendered: str) -> int:
    """Returns the character of `rendered` at which a completion's own text begins; step ends count from there.

    Templates write things before it and cut blanks off it. Raises `Unusable` if it is not there in one piece.
    """
    own = _plain(text)
    at = rendered.find(own.strip())
    if at < 0:
        raise Unusable("steps lost in the chat template")
    return at - (len(own) - len(own.lstrip()))


def _given(template: str | None) -> str | None:
    if template is None or "{" in template:
        return template
    path = Path(template).expanduser()
    if not path.is_file():
        raise UsageError(
            f"data.chat_template={template} is neither Jinja text nor a file; type the path of a .jinja file"
        )
    return path.read_text()


def _plain(text: Text) -> str:
    if isinstance(text, str):
        return text
    return "".join(str(message.get("content", "")) for message in text)


def _messages(text: Text) -> list[Any]:
    return [{"role": "assistant", "content": text}] if isinstance(text, str) else list(text)


def _shared_start(texts: list[str]) -> str:
    first, last = min(texts), max(texts)  # what the extremes of the order share, all share
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[:length]
