"""Text -> token ids: `Example` to the encoded record that is stored, packed and scored.

The prompt is tokenised once and each completion after it, never both in one string: a token across the border would
mean that the "shared" prompt is not shared. The tokenizer's own prefix (BOS, [CLS]) stands once at the front; its
suffix ([SEP]), or else EOS, ends every completion that has no end marker yet, at training and at scoring alike.

Left out: tokenizers without a fast version, whose offsets are unknown, so that step ends could not be found.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, final

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from rmlab.batch import Completion, Example, Step, Text
from rmlab.errors import UsageError

# Conversations where the tokenizer has no chat template: the dialogue form of HH-RLHF.
PLAIN_TEMPLATE = (
    "{% for m in messages %}"
    "{{ '\\n\\n' + {'user': 'Human', 'assistant': 'Assistant'}.get(m.role, m.role | capitalize) + ': ' + m.content }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n\\nAssistant: ' }}{% endif %}"
)


def without_dummy_prefix(tokenizer: Tokenizer) -> Tokenizer:
    """Returns a copy that tokenises a text as the continuation of another.

    SentencePiece-like tokenizers (Metaspace, Prepend) and some byte-level ones put a space before any text they get;
    in front of a completion that space would be a token nobody wrote.
    """
    state = json.loads(tokenizer.to_str())

    def cleaned(node: Any) -> Any:
        if isinstance(node, list):
            return [cleaned(x) for x in node if not (isinstance(x, dict) and x.get("type") == "Prepend")]
        if not isinstance(node, dict):
            return node
        off = {"prepend_scheme": "never", "add_prefix_space": False, "add_dummy_prefix": False}
        return {key: off[key] if key in off else cleaned(value) for key, value in node.items()}

    for part in ("normalizer", "pre_tokenizer"):
        node = cleaned(state[part])
        state[part] = None if isinstance(node, dict) and node.get("type") == "Prepend" else node
    return Tokenizer.from_str(json.dumps(state))


def last_token_before(offsets: list[tuple[int, int]], end: int) -> int:
    """Returns the index of the last token that begins before character `end` (exclusive), -1 if none does.

    A character of several bytes can be several tokens with the same span; the last of them is meant.
    """
    return max((i for i, (begin, stop) in enumerate(offsets) if begin < end and stop > begin), default=-1)


@final
class Encoder:
    """How examples become ids for one tokenizer.

    max_length: tokens of the prompt with one completion, markers included. overlong: `drop` such an example, or
    `truncate` its prompt at the start (the completion is never cut). chat_template: Jinja text, or the path of a file.
    Raises `UsageError` for a tokenizer that cannot be used and for options that do not exist.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        overlong: Literal["drop", "truncate"],
        chat_template: str | None = None,
    ) -> None:
        if not tokenizer.is_fast:
            raise UsageError(
                f"{type(tokenizer).__name__} has no fast version, so step ends cannot be found; type model.tokenizer= "
                "the name of one that has"
            )
        if overlong not in ("drop", "truncate"):
            raise UsageError(f"data.overlong={overlong} does not exist; type drop or truncate")
        if max_length < 2:
            raise UsageError(f"data.max_length is {max_length}, expected 2 tokens or more")
        self.tokenizer, self.max_length, self.overlong = tokenizer, max_length, overlong
        self.template = _template(chat_template) or tokenizer.chat_template or PLAIN_TEMPLATE
        self._prompts = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._prompts.no_padding()
        self._prompts.no_truncation()
        self._completions = without_dummy_prefix(self._prompts)
        self.prefix, suffix = self._markers()
        eos = tokenizer.eos_token_id
        if not suffix and eos is None:
            raise UsageError(
                "the tokenizer has neither an EOS token nor a suffix of its own, so no end can be marked; type "
                "model.tokenizer= the name of one that has"
            )
        self.suffix: list[int] = suffix or [int(eos)]

    def _markers(self) -> tuple[list[int], list[int]]:
        probe = self._prompts.encode("a", add_special_tokens=False).ids
        whole = list(self.tokenizer("a")["input_ids"])
        for i in range(len(whole) - len(probe) + 1):
            if whole[i : i + len(probe)] == probe:
                return whole[:i], whole[i + len(probe) :]
        raise UsageError(
            f"{type(self.tokenizer).__name__} writes other tokens with its special ones than without, so prompt and "
            "completion cannot be put together; type model.tokenizer= the name of another"
        )

    def fingerprint(self) -> str:
        """Returns a hash of everything that decides which ids a text gets."""
        parts = [self._prompts.to_str(), self.template, self.max_length, self.overlong, self.prefix, self.suffix]
        return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:24]

    def encode(self, example: Example) -> dict[str, Any] | str:
        """Returns the encoded record of an example (see rmlab/data/pack.py), or why it is set aside."""
        prompt, answers = self.render(example)
        if not all(answer.strip() for answer in answers):
            return "empty"
        prompt_ids = self._prompt_ids(prompt)
        encoded = [self._completion(a, c) for a, c in zip(answers, example.completions, strict=True)]
        room = self.max_length - max(len(ids) for ids, _ in encoded)
        if len(prompt_ids) > room:
            if self.overlong == "drop" or room <= len(self.prefix):
                return "over-long"
            kept = room - len(self.prefix)
            prompt_ids = self.prefix + prompt_ids[len(prompt_ids) - kept :]
        rankings = example.rankings
        return {
            "prompt_ids": prompt_ids,
            "completion_ids": [ids for ids, _ in encoded],
            "outcome": [c.outcome for c in example.completions],
            "gold": [c.gold for c in example.completions],
            "step_end": [ends for _, ends in encoded],
            "step_label": [[step.label for step in c.steps] for c in example.completions],
            "attributes": [list(c.attributes) for c in example.completions],
            "order": [list(r.order) for r in rankings],
            "grades": [list(r.grades) for r in rankings],
            "probability": [r.probability for r in rankings],
            "weight": [r.weight for r in rankings],
            "source": example.source,
            "id": example.id,
            "prompt_hash": _hash(prompt_ids),
        }

    def render(self, example: Example) -> tuple[str, list[str]]:
        """Returns the prompt's text and each completion's, messages through the chat template."""
        if isinstance(example.prompt, str):
            return example.prompt, [self._plain(c.text) for c in example.completions]
        prompt = self._apply(list(example.prompt), example.chat, add_generation_prompt=True)
        wholes = [
            self._apply([*example.prompt, *_messages(c.text)], example.chat, add_generation_prompt=False)
            for c in example.completions
        ]
        # A template may write the last turn otherwise once it is answered (a thinking block, say): what all share is
        # the prompt, so that prompt + completion is always the whole conversation as the template writes it.
        prompt = _shared_start([prompt, *wholes])
        return prompt, [whole[len(prompt) :] for whole in wholes]

    def _plain(self, text: Text) -> str:
        if isinstance(text, str):
            return text
        return "".join(str(message.get("content", "")) for message in text)

    def _apply(self, messages: list[Any], chat: Mapping[str, Any], *, add_generation_prompt: bool) -> str:
        rendered = self.tokenizer.apply_chat_template(
            messages,
            chat_template=self.template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            **chat,
        )
        return str(rendered)

    def _prompt_ids(self, text: str) -> list[int]:
        """Returns the prompt's ids with the tokenizer's prefix, once: some chat templates write BOS themselves."""
        ids = list(self._prompts.encode(text, add_special_tokens=False).ids)
        written = bool(self.prefix) and ids[: len(self.prefix)] == self.prefix
        return ids if written else self.prefix + ids

    def _completion(self, text: str, completion: Completion) -> tuple[list[int], list[int]]:
        """Returns a completion's ids with its end marker, and the index of each step's last token."""
        text = self._unmarked(text)
        encoding = self._completions.encode(text, add_special_tokens=False)
        ends = [self._step_end(encoding.offsets, step, text) for step in completion.steps]
        return list(encoding.ids) + self.suffix, ends

    def _step_end(self, offsets: list[tuple[int, int]], step: Step, text: str) -> int:
        return max(0, last_token_before(offsets, min(step.end, len(text))))

    def _unmarked(self, text: str) -> str:
        """Returns the text without an end marker of its own (and the whitespace a template writes after it)."""
        marker = self.tokenizer.eos_token
        stripped = text.rstrip()
        return stripped.removesuffix(marker) if marker and stripped.endswith(marker) else text


def _template(given: str | None) -> str | None:
    if given is None or "{" in given:
        return given
    path = Path(given).expanduser()
    if not path.is_file():
        raise UsageError(f"data.chat_template={given} is neither Jinja text nor a file; type the path of a .jinja file")
    return path.read_text()


def _messages(text: Text) -> list[Any]:
    return [{"role": "assistant", "content": text}] if isinstance(text, str) else list(text)


def _shared_start(texts: list[str]) -> str:
    first, last = min(texts), max(texts)  # what the extremes of the order share, all share
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[:length]


def _hash(ids: list[int]) -> int:
    digest = hashlib.blake2b(b",".join(str(i).encode() for i in ids), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
