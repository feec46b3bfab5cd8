"""A judge that writes, on vLLM in this process (through an engine subprocess on CUDA).

The chat template is the model's own; what the messages say is encoded apart, so that no text can
write a control token (engines/untrusted.py). A prompt that does not fit is an answer with its
status, because one refused prompt would cost a whole `generate`. Not here: likelihoods
(vllm_scorer.py), what an answer means.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from labeling.engines.chat import ChatAnswer, ChatRequest
from labeling.engines.config import VllmEngineConfig
from labeling.engines.local.vllm import load_judge
from labeling.engines.model_identity import ModelIdentity
from labeling.engines.untrusted import PLACEHOLDERS, PromptEncoder, UnfitPrompt, template_pieces
from labeling.errors import LabelingError

_CHUNK = 1024  # as in judges/likelihood.py: enough to batch well, few enough to show progress


class VllmChatEngine:
    """See labeling.engines.chat.ChatEngine. `family` is the model's architecture."""

    name = "vllm"

    def __init__(
        self, config: VllmEngineConfig, model: ModelIdentity, device: str, tokenizer: Any
    ) -> None:
        import vllm

        # vLLM heeds this flag here and not in a request. Without it a weak model spends its room on
        # white space, which JSON allows.
        form = {"backend": "xgrammar", "disable_any_whitespace": True}
        self._tokenizer, self._encoder = tokenizer, PromptEncoder(tokenizer)
        self._pieces: dict[tuple[str, ...], list[str]] = {}
        self._llm: Any = load_judge(config, model, device, structured_outputs_config=form)
        model_config = self._llm.llm_engine.model_config
        self.version, self.model, self.device = vllm.__version__, config.model, device
        self.dtype = str(model_config.dtype).removeprefix("torch.")
        self.family = str(model_config.hf_config.model_type)
        self._room = int(model_config.max_model_len)

    def token_ids(self, request: ChatRequest) -> list[int]:
        """What the model reads. Raises UnfitPrompt, and LabelingError for roles without a slot."""
        roles = tuple(message["role"] for message in request.messages)
        contents = {message["role"]: message["content"] for message in request.messages}
        if len(contents) < len(roles) or not set(roles) <= set(PLACEHOLDERS):
            raise LabelingError(
                f"judge {self.model}: messages of {list(roles)}; a judge that runs here takes "
                "one system and one user message"
            )
        if roles not in self._pieces:
            self._pieces[roles] = template_pieces(roles, self._tokenizer, judge=self.model)
        ids: list[int] = []
        for piece in self._pieces[roles]:
            if piece in contents:
                ids += self._encoder.untrusted(contents[piece])
            else:
                ids += self._encoder.trusted(piece)
        return ids

    def complete(
        self, requests: Sequence[ChatRequest], done: Callable[[ChatAnswer], None] | None = None
    ) -> list[ChatAnswer]:
        """See ChatEngine.complete."""
        answers: list[ChatAnswer] = []
        for start in range(0, len(requests), _CHUNK):
            chunk = self._complete(requests[start : start + _CHUNK])
            if done is not None:
                for answer in chunk:
                    done(answer)
            answers += chunk
        return answers

    def close(self) -> None:
        """Drops the engine."""
        del self._llm

    def _complete(self, requests: Sequence[ChatRequest]) -> list[ChatAnswer]:
        answers: dict[str, ChatAnswer] = {}
        prompts: list[tuple[ChatRequest, list[int]]] = []
        for request in requests:
            ids = self._fitting(request)
            if isinstance(ids, ChatAnswer):
                answers[request.key] = ids
            else:
                prompts.append((request, ids))
        started = time.perf_counter()
        outputs = self._generate(prompts)
        seconds = (time.perf_counter() - started) / max(1, len(prompts))
        for (request, _), output in zip(prompts, outputs, strict=True):
            answers[request.key] = _answer(request, output, seconds)
        return [answers[request.key] for request in requests]

    def _fitting(self, request: ChatRequest) -> list[int] | ChatAnswer:
        """The prompt, or the answer to one that cannot be asked."""
        try:
            ids = self.token_ids(request)
        except UnfitPrompt as error:
            return ChatAnswer(request.key, "error", error_message=str(error))
        if len(ids) < self._room:
            return ids
        message = f"{len(ids)} tokens; the judge reads {self._room - 1}"
        return ChatAnswer(request.key, "too_long", error_message=message, input_tokens=len(ids))

    def _generate(self, prompts: Sequence[tuple[ChatRequest, list[int]]]) -> list[Any]:
        from vllm import TokensPrompt

        if not prompts:
            return []
        try:
            return list(
                self._llm.generate(
                    [TokensPrompt(prompt_token_ids=ids) for _, ids in prompts],
                    [self._parameters(request, len(ids)) for request, ids in prompts],
                    use_tqdm=False,
                )
            )
        except Exception as error:
            raise LabelingError(
                f"judge {self.model}: the vllm engine failed on {len(prompts)} prompts: "
                f"{type(error).__name__}: {error}; run the stage again"
            ) from error

    def _parameters(self, request: ChatRequest, prompt_tokens: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        structured = None
        if request.schema is not None:
            structured = StructuredOutputsParams(json=dict(request.schema))
        return SamplingParams(
            temperature=request.temperature,
            max_tokens=min(request.max_tokens, self._room - prompt_tokens),
            seed=request.seed,
            structured_outputs=structured,
        )


def _answer(request: ChatRequest, output: Any, seconds: float) -> ChatAnswer:
    """The row of one output; `seconds` is its share of the batch's wall time."""
    completion = output.outputs[0]
    reason, text = completion.finish_reason, completion.text
    status = "truncated" if reason == "length" else "ok" if reason == "stop" else "error"
    if status == "ok" and not text.strip():
        status = "empty"
    return ChatAnswer(
        request.key,
        status,
        text=text,
        stop_reason=reason,
        input_tokens=len(output.prompt_token_ids),
        output_tokens=len(completion.token_ids),
        cached_input_tokens=output.num_cached_tokens,
        error_message=f"vLLM ended with {reason!r}" if status == "error" else None,
        seconds=seconds,
    )
