"""Text -> token ids: `Example` to the encoded record that is stored, packed and scored.

The prompt is tokenised once and each completion after it, never both in one string: a token across the border would
mean that the "shared" prompt is not shared. The tokenizer's own prefix (BOS, [CLS]) stands once at the front; its
suffix ([SEP]), or else EOS, ends every completion that has no end marker yet, at training and at scoring alike.

Left out: tokenizers without a fast version, whose offsets are unknown, so that step ends could not be found.
"""

from __future__ import annotations

import hashlib
import json
from itertools import groupby
from typing import Any, Literal, final

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from rmlab.batch import Completion, Example
from rmlab.data.chat import Chat, Unusable, start_of
from rmlab.errors import UsageError


def without_dummy_prefix(tokenizer: Tokenizer) -> Tokenizer:
    """Returns a copy that tokenises a text as the continuation of another, and writes no special tokens.

    SentencePiece-like tokenizers (Metaspace, Prepend) and some byte-level ones put a space before any text they get;
    in front of a completion that space would be a token nobody wrote. The post-processor goes too: it may trim the
    whitespace off the offsets (RoBERTa's does), and a line break would then end no step.
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
    state["post_processor"] = None
    return Tokenizer.from_str(json.dumps(state))


def separator(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Returns the ids that a tokenizer writes between two texts, none if it writes them one after the other."""
    one, other = (list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in "ab")
    whole = list(tokenizer("a", "b")["input_ids"])
    starts = [i for i in range(len(whole)) if whole[i : i + len(one)] == one]
    ends = [i for i in range(len(whole)) if whole[i : i + len(other)] == other]
    return whole[starts[0] + len(one) : ends[-1]] if starts and ends else []


def token_spans(offsets: list[tuple[int, int]], text: str) -> list[tuple[int, int]]:
    """Returns each token's characters (begin, end), bytes of several unknown characters told apart.

    A Unigram model with byte fallback gives all bytes of neighbouring unknown characters the span of all of them.
    """
    if len(set(offsets)) == len(offsets):
        return offsets  # no two tokens share their characters
    spans: list[tuple[int, int]] = []
    for (begin, end), run in groupby(offsets):
        count, characters = len(list(run)), text[begin:end]
        if end - begin > 1 and count == len(characters.encode()):
            spans += [(i, i + 1) for i, character in enumerate(characters, begin) for _ in character.encode()]
        else:
            spans += [(begin, end)] * count
    return spans


def last_token_before(offsets: list[tuple[int, int]], end: int) -> int:
    """Returns the index of the last token that begins before character `end` (exclusive), -1 if none does.

    A character of several bytes can be several tokens with the same span; the last of them is meant.
    """
    for i in range(len(offsets) - 1, -1, -1):
        begin, stop = offsets[i]
        if begin < end and stop > begin:
            return i
    return -1


@final
class Encoder:
    """How examples become ids for one tokenizer.

    max_length: tokens of the prompt with one completion, markers included. overlong: `drop` such an example, or
    `truncate` its prompt at the start (the completion is never cut). chat_template: Jinja text, or the path of a file.
    as_written: whether conversations keep the end that the tokenizer's own template writes (for models that others
    trained on it; ours read the end marker). No template, no difference. pairs: whether a prompt and a completion that
    are texts are two texts to the tokenizer, with what it writes between two (encoders of others; ours read one text).
    Raises `UsageError` for a tokenizer that cannot be used and for options that do not exist.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        overlong: Literal["drop", "truncate"],
        chat_template: str | None = None,
        as_written: bool = False,
        pairs: bool = False,
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
        self._chat = Chat(tokenizer, chat_template)
        self.template = self._chat.template
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
        self.between = separator(tokenizer) if pairs else []
        self._written_suffix = suffix if as_written and tokenizer.chat_template == self.template else None

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
        parts += [] if self._written_suffix is None else ["as written"]
        parts += [self.between] if self.between else []
        return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:24]

    def encode(self, example: Example) -> dict[str, Any] | str:
        """Returns the encoded record of an example (see rmlab/data/pack.py), or why it is set aside."""
        try:
            prompt, answers = self._chat.render(example)
            kept = None if isinstance(example.prompt, str) else self._written_suffix
            between = self.between if isinstance(example.prompt, str) else []
            own = self._prompts if between else self._completions
            encoded = [self._completion(a, c, kept, own) for a, c in zip(answers, example.completions, strict=True)]
            whole_ids = self._prompt_ids(prompt) + between
            prompt_ids = self._fitted(whole_ids, max(len(ids) for ids, _ in encoded))
        except Unusable as reason:
            return str(reason)
        rankings = example.rankings
        return {
            "prompt_ids": prompt_ids,
            "completion_ids": [ids for ids, _ in encoded],
            "outcome": [c.outcome for c in example.completions],
            "answer": [c.answer for c in example.completions],
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
            "split_hash": _hash(whole_ids),  # a long prompt is cut differently for each of its rows
        }

    def whole(self, text: str) -> list[int]:
        """Returns the ids of a text that is prompt and completion in one piece, begun and ended as in training."""
        return self._prompt_ids(self._unmarked(text)) + self.suffix

    def _prompt_ids(self, text: str) -> list[int]:
        """Returns the prompt's ids with the tokenizer's prefix, once: some chat templates write BOS themselves."""
        ids = list(self._prompts.encode(text, add_special_tokens=False).ids)
        written = bool(self.prefix) and ids[: len(self.prefix)] == self.prefix
        return ids if written else self.prefix + ids

    def _fitted(self, prompt_ids: list[int], longest: int) -> list[int]:
        """Returns the prompt's ids, cut at the start (after the prefix) if they must and may be."""
        room = self.max_length - longest
        if len(prompt_ids) <= room:
            return prompt_ids
        if self.overlong == "drop" or room <= len(self.prefix):
            raise Unusable("over-long")
        return self.prefix + prompt_ids[len(prompt_ids) - (room - len(self.prefix)) :]

    def _completion(
        self, text: str, completion: Completion, kept: list[int] | None, tokenizer: Tokenizer
    ) -> tuple[list[int], list[int]]:
        """Returns a completion's ids with its end marker, and the index of each step's last token.

        kept: what follows the text as it is written, None to end it with the marker. tokenizer: of a continuation, or
        of a text of its own.
        """
        bare = self._unmarked(text)
        text = bare if kept is None else text
        encoding = tokenizer.encode(text, add_special_tokens=False)
        if not encoding.ids or not bare.strip():
            raise Unusable("empty")
        shift = start_of(completion.text, text) if completion.steps else 0
        spans = token_spans(encoding.offsets, text) if completion.steps else []
        ends = [max(0, last_token_before(spans, step.end + shift)) for step in completion.steps]
        return list(encoding.ids) + (self.suffix if kept is None else kept), ends

    def _unmarked(self, text: str) -> str:
        """Returns the text without an end marker of its own (and the whitespace a template writes after it)."""
        marker = self.tokenizer.eos_token
        stripped = text.rstrip()
        return stripped.removesuffix(marker) if marker and stripped.endswith(marker) else text


def _hash(ids: list[int]) -> int:
    digest = hashlib.blake2b(b",".join(str(i).encode() for i in ids), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
