"""A tiny warehouse whose rollouts a tiny policy really sampled and whose reference scored them.

One completed round: `count` train prompts with four samples each, and one hold-out prompt. The
reward is how many of the completion's words are low (`w5` to `w19`), centered.
"""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer

from tests.training.tiny import EOS, sample_rows, tiny_policy
from tests.warehouse.builder import prompt, publish_rows, reward, rollout, round_row
from training.policy.sequences import sequence_logprobs
from training.revision import policy_revision

SAMPLES = 4


def low_words(ids: list[int]) -> float:
    words = [i for i in ids if i > EOS]
    return sum(i < 20 for i in words) / max(1, len(words))


def stored_round(root: Path, count: int = 12, *, with_reference: bool = True) -> Path:
    """Publishes the round into `root`; the folder of the policy that sampled it."""
    policy = tiny_policy(root / "base")
    revision = policy_revision(policy)
    tokenizer = AutoTokenizer.from_pretrained(policy)
    drawn = [sample_rows(policy, count, low_words, seed=k) for k in range(SAMPLES)]
    rollouts, rewards, names = [], [], []
    for place in range(count):
        name = "h1" if place == 0 else f"t{place:02d}"
        purpose = "holdout" if place == 0 else "train"
        names.append(prompt(name, purpose=purpose))
        for k, rows in enumerate(drawn):
            # One prompt for all samples: the tokens of the first draw.
            ids = rows.completion_ids[place].tolist()
            row = rollout(
                0, name, k, purpose=purpose, policy_revision=revision,
                prompt_ids=drawn[0].prompt_ids[place].tolist(), completion_ids=ids,
                completion=tokenizer.decode(ids, skip_special_tokens=True),
                behavior_logprobs=[-1.0] * len(ids), finish_reason="stop",
            )  # fmt: skip
            rollouts.append(row)
            rewards.append(reward(row, low_words(ids)))
    publish_rows(root, "prompts", prompts=names)
    tables = {"rollouts": rollouts, "rewards": rewards}
    tables["rounds"] = [round_row(0, reference_revision=revision)]
    if with_reference:
        tables["policy_logprobs"] = reference_rows(policy, rollouts)
    publish_rows(root, "round=0", 0, **tables)
    return policy


def reference_rows(policy: Path, rollouts: list[dict[str, object]]) -> list[dict[str, object]]:
    """The `policy_logprobs` rows of these rollouts under the policy, as their reference."""
    scored = sequence_logprobs(
        policy,
        [row["prompt_ids"] for row in rollouts],
        [row["completion_ids"] for row in rollouts],
        device="cpu",
    )
    return [
        {
            "rollout_id": row["rollout_id"],
            "round": row["round"],
            "policy_revision": policy_revision(policy),
            "role": "reference",
            "logprobs": values.tolist(),
        }
        for row, values in zip(rollouts, scored, strict=True)
    ]
