"""vLLM in this process as a generator of answers: optional, imported when it is asked for.

Written against vLLM's documented interface (``LLM.generate``, ``SamplingParams``, ``LoRARequest``) and tested with a stand-in that records its
arguments; it was not run on a real vLLM. ``vllm serve`` with ``--endpoint`` is the way that is tested against a server.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from igascale.errors import UserError
from igascale.evaluation.generator import Answered
from igascale.isomers.encode import encode_prompt
from igascale.locate import read_adapter_config


class VllmGenerator:
    """Greedy decoding by vLLM, of the same prompts as in this process: token ids, by the template of the training.

    Args:
        model: base model, folder or Hub id.
        adapter: PEFT folder, or ``None``.
        max_new_tokens: limit per answer.
        dtype: ``auto``, ``float32``, ...

    Raises:
        UserError: vLLM is missing, or does not load the model.
    """

    def __init__(self, model: str, adapter: Path | None = None, max_new_tokens: int = 512, dtype: str = "auto"):
        try:
            import vllm
            from vllm.lora.request import LoRARequest
        except ImportError as error:
            raise UserError(
                f"--generator vllm needs the vllm package ({error}): pip install vllm, or start `vllm serve` elsewhere and give --endpoint"
            ) from None
        self.model, self.adapter, self.max_new_tokens, self.dtype = model, adapter, max_new_tokens, dtype
        self._version = getattr(vllm, "__version__", None)
        lora = {}
        if adapter is not None:
            # vLLM refuses a rank above max_lora_rank, and takes only some values for it: the next one up.
            rank = int(read_adapter_config(adapter).get("r", 16))
            lora = {"enable_lora": True, "max_lora_rank": next((r for r in _RANKS if r >= rank), rank)}
        try:
            self._llm = vllm.LLM(model=model, dtype=dtype, seed=0, **lora)
        except (ValueError, OSError, RuntimeError) as error:
            raise UserError(f"vLLM does not load {model}: {_one_line(error)}") from None
        self._sampling = vllm.SamplingParams(temperature=0.0, max_tokens=max_new_tokens, skip_special_tokens=True)
        self._lora = LoRARequest("adapter", 1, str(adapter)) if adapter is not None else None

    def settings(self) -> dict[str, str | int | float | bool | None]:
        """See :class:`igascale.evaluation.generator.Generator`."""
        return {
            "generator": "vllm",
            "vllm": self._version,
            "base_model": self.model,
            "adapter": str(self.adapter) if self.adapter is not None else None,
            "decoding": "greedy",
            "max_new_tokens": self.max_new_tokens,
            "dtype": self.dtype,
            "template": "chat template"
            if self._tokenizer.chat_template
            else "none: BOS, problem and newline, as in training",
        }

    def answer(self, problems: Sequence[str]) -> Iterator[tuple[int, Answered]]:
        """See :class:`igascale.evaluation.generator.Generator`; vLLM batches by itself, so all answers come at the end.

        Raises:
            UserError: vLLM refuses a prompt, one that is too long for the model say.
        """
        prompts = [{"prompt_token_ids": encode_prompt(self._tokenizer, problem)} for problem in problems]
        if not prompts:
            return
        try:
            found = self._llm.generate(prompts, self._sampling, lora_request=self._lora, use_tqdm=False)
        except ValueError as error:
            raise UserError(
                f"vLLM refuses the problems: {_one_line(error)}; lower --max-new-tokens if it is about length"
            ) from None
        for index, request in enumerate(found):
            (completion,) = request.outputs
            finished = completion.finish_reason != "length"
            # The end token is the last one of a finished answer, and not part of it.
            yield index, Answered(completion.text, len(completion.token_ids) - finished, finished)

    @property
    def _tokenizer(self) -> Any:
        return self._llm.get_tokenizer()


_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
