"""A reward model as one ONNX graph: `input_ids` and `attention_mask` [batch, length], padded on the right -> `score`
[batch]. Both sizes are free.

The graph is the model and its read-out, traced by torch's own exporter (`torch.onnx.export(dynamo=True)`). onnxruntime
runs it against the model before the folder appears. A decoder is read at the last token that the mask shows and that is
not `unread_id`.

Left out: scores made of several tokens (steps, per-token losses), which one row of ids does not say how to read; bf16,
which onnxruntime does not compute on CPUs.
"""

from __future__ import annotations

import copy
import inspect
import logging
import warnings
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, final

import torch
from torch import Tensor, nn

from rmlab.data.tokenize import Encoder
from rmlab.errors import RunError, UsageError
from rmlab.export.appearing import appearing
from rmlab.export.check import compare, probes
from rmlab.export.folder import evaluating
from rmlab.export.quiet import quietly
from rmlab.export.trained import Trained
from rmlab.export.weights import NotRepresentable
from rmlab.model.backbone import Backbone
from rmlab.model.readout import First, Last, Mean, Readout

FILE = "model.onnx"
LARGE = 2**30  # bytes of weights above which they stand in a file beside the graph: one file holds at most 2 GiB
NEEDED = ("onnx", "onnxruntime", "onnxscript")


@final
class Rows(nn.Module):
    """A trained model on padded rows, as an ONNX graph has it."""

    def __init__(self, model: nn.Module, readout: Readout, head: nn.Module, unread_id: int | None) -> None:
        super().__init__()
        self.model, self.readout, self.head = model, readout, head
        self.unread_id = -1 if unread_id is None else unread_id
        self._options = {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Returns the scores [B]."""
        hidden_BLD = self.model(input_ids=input_ids, attention_mask=attention_mask, **self._options).last_hidden_state
        state_BD = self.readout.finish(self._gathered(hidden_BLD, input_ids, attention_mask))
        score_B: Tensor = self.head(state_BD.float())[:, 0]
        return score_B

    def _gathered(self, hidden_BLD: Tensor, token_BL: Tensor, mask_BL: Tensor) -> Tensor:
        # The read-outs' own `gather` is for flat batches, whose sizes depend on the data: no graph could be traced.
        if isinstance(self.readout, Mean):
            mask_BL1 = mask_BL[:, :, None].to(hidden_BLD.dtype)
            return (hidden_BLD * mask_BL1).sum(1) / mask_BL1.sum(1)
        if isinstance(self.readout, First):
            return hidden_BLD[:, 0]
        shown_BL = mask_BL * (token_BL != self.unread_id)
        last_B = (shown_BL * torch.arange(token_BL.shape[1], device=token_BL.device)).argmax(1)
        return hidden_BLD[torch.arange(token_BL.shape[0], device=token_BL.device), last_B]


@final
class Classifier(nn.Module):
    """A model that transformers' own class reads, on padded rows."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Returns the scores [B]."""
        score_B: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits[:, 0].float()
        return score_B


def rows_of(module: Trained, unread_id: int | None) -> Rows | Classifier:
    """Returns the model on padded rows. Raises `NotRepresentable` unless it has one number at a completion's end."""
    loss = module.loss
    if loss.reads != "ends" or loss.out_dim != 1:
        raise NotRepresentable(
            f"an ONNX graph gives one number per row, this model's score is made of the outputs at its {loss.reads} "
            f"by the rule {loss.rule}"
        )
    if getattr(module.backbone, "second", 0):
        raise NotRepresentable("it tells its two texts apart by token types, which the graph's inputs do not have")
    if not isinstance(module.backbone, Backbone):
        return Classifier(module.backbone.model)  # type: ignore[arg-type]
    if not isinstance(module.readout, First | Last | Mean):
        raise NotRepresentable(f"an ONNX graph cannot read as {type(module.readout).__name__} does")
    return Rows(module.backbone.model, module.readout, module.head, unread_id)


def export_onnx(module: Trained, encoder: Encoder, folder: Path, *, unread_id: int | None) -> None:
    """Writes `model.onnx`, the tokenizer and a card to `folder`.

    Raises `UsageError` without the packages of the extra `onnx`, `NotRepresentable` for a model with more than one
    number per completion, `RunError` if the architecture cannot be traced or onnxruntime computes other scores.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UsageError(f"the Python package {missing[0]} is not installed; type pip install 'rmlab[onnx]'")
    rows = copy.deepcopy(rows_of(module, unread_id)).eval()
    rows.model.set_attn_implementation("eager")  # type: ignore[operator, union-attr]
    tokenizer = copy.deepcopy(encoder.tokenizer)
    tokenizer.chat_template, tokenizer.padding_side = encoder.template, "right"
    with appearing(folder) as temporary, evaluating(module), quietly():
        _trace(rows, temporary / FILE)
        probed = probes(tokenizer, set(encoder.suffix) - {unread_id})
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else encoder.suffix[-1]
        compare(module, _Session(temporary / FILE), probed, pad_id=int(pad), sides=["right"])
        tokenizer.save_pretrained(temporary)
        (temporary / "README.md").write_text(_card(encoder))


def _trace(rows: nn.Module, path: Path) -> None:
    example = {
        "input_ids": torch.tensor([[1, 2, 3, 1], [2, 3, 1, 1]]),
        "attention_mask": torch.tensor([[1] * 4, [1, 1, 1, 0]]),
    }
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    noise = logging.getLogger("torch.onnx")
    level = noise.level
    noise.setLevel(logging.ERROR)  # that torchvision is not installed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                rows,
                (),
                str(path),
                kwargs=example,
                dynamo=True,
                dynamic_shapes={name: {0: batch, 1: length} for name in example},
                input_names=list(example),
                output_names=["score"],
                external_data=_size(rows) > LARGE,
                verbose=False,
            )
    except Exception as error:  # the exporter's own kinds are many and none of them is public
        reason = str(error).strip().splitlines()[-1]
        raise RunError(
            f"torch.onnx could not trace {type(rows.model).__name__} ({type(error).__name__}: {reason[:200]}); "
            "type --to hf instead"
        ) from error
    finally:
        noise.setLevel(level)


def _size(rows: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in rows.parameters())


@final
class _Session:
    """The graph under onnxruntime, called as a model of transformers is."""

    device = torch.device("cpu")

    def __init__(self, path: Path) -> None:
        import onnxruntime

        self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        """Returns `logits` [B, 1]."""
        given = {"input_ids": input_ids.numpy(), "attention_mask": attention_mask.numpy()}
        (score_B,) = self._session.run(["score"], given)
        return SimpleNamespace(logits=torch.from_numpy(score_B)[:, None])

    def __call__(self, **inputs: Any) -> SimpleNamespace:
        """See `forward`."""
        return self.forward(**inputs)


def _card(encoder: Encoder) -> str:
    marker = "".join(encoder.tokenizer.convert_ids_to_tokens(encoder.suffix))
    ends = encoder.tokenizer("a")["input_ids"][-1] == encoder.suffix[-1]
    border = "], [" if encoder.between else " + "  # two texts, or one
    text = f"prompt{border}completion" + ("" if ends else f" + {marker!r}")
    return f"""# Reward model as ONNX

```python
import numpy as np, onnxruntime
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH_OF_THIS_FOLDER")
session = onnxruntime.InferenceSession("PATH_OF_THIS_FOLDER/{FILE}")
prompt, completion = "a prompt", "a completion"
inputs = tokenizer([{text}], padding=True, padding_side="right", return_tensors="np")
session.run(["score"], {{name: inputs[name].astype(np.int64) for name in ("input_ids", "attention_mask")}})
```

Longest prompt with completion in training: {encoder.max_length} tokens. A raw score is not absolute: compare scores of
completions of the same prompt.
"""
