"""The queries behind preference training: candidates, pairs, and the rows of each trainer.

Parameters: `$statuses`, `$rounds` (NULL: all) and `$allow_truncated` choose candidates of rounds,
`$imported` (NULL: none) instead those of an imported source; `$margin`, `$recipe`, `$threshold` are
of the query that names them. No candidate is of a hold-out prompt or begins as one does.
Not here: what the columns mean (selection.py, rows.py).
"""

from __future__ import annotations

# A reference log-prob belongs to the reference policy of the round its rollout was sampled in. It
# counts where there is one finite log-prob for each token, summed, in nats.
_REFERENCE = """
reference as (
    select rollout_id, policy_revision, len(logprobs) as tokens, list_sum(logprobs) as logps
    from policy_logprobs
    where role = 'reference'
    qualify row_number() over (partition by rollout_id, policy_revision order by round) = 1
)
"""
_SCORED_BY_REFERENCE = """
    left join rounds on rollouts.round = rounds.round
    left join reference
        on rollouts.rollout_id = reference.rollout_id
        and rounds.reference_revision = reference.policy_revision
        and len(rollouts.completion_ids) = reference.tokens
        and isfinite(reference.logps)
"""

_HOLDOUT_TURNS = """
holdout_turns as (
    select distinct first_turn_sha256 from prompts where purpose = 'holdout'
)
"""

_CANDIDATES = f"""
{_REFERENCE},
{_HOLDOUT_TURNS},
candidates as (
    select rollouts.*, prompts.messages,
        rewards.recipe || '@' || rewards.recipe_sha256[:12] as reward_recipe, rewards.reward,
        rounds.reference_revision, reference.logps
    from rollouts
    inner join prompts on rollouts.prompt_id = prompts.prompt_id
    inner join current_rewards as rewards on rollouts.rollout_id = rewards.rollout_id
    {_SCORED_BY_REFERENCE}
    left join holdout_turns on prompts.first_turn_sha256 = holdout_turns.first_turn_sha256
    where rollouts.purpose = 'train'
        and rewards.is_eligible and isfinite(rewards.reward)
        and trim(rollouts.completion) <> ''
        and case
            when $imported is null
                then prompts.purpose = 'train'
                    and list_contains($statuses, rounds.status)
                    and ($rounds is null or list_contains($rounds, rollouts.round))
                    and ($allow_truncated or rollouts.finish_reason = 'stop')
            else prompts.purpose = 'imported'
                and rewards.recipe = 'imported/' || $imported
                and holdout_turns.first_turn_sha256 is null
        end
)
"""

PAIRS = f"""
with {_CANDIDATES},
best as (
    from candidates
    qualify row_number() over (
        partition by round, prompt_id order by reward desc, rollout_id
    ) = 1
),
worst as (
    from candidates
    qualify row_number() over (partition by round, prompt_id order by reward, rollout_id) = 1
)
select
    best.prompt_id, best.round,
    'best-worst/' || best.reward_recipe as recipe,
    best.rollout_id as chosen_id, worst.rollout_id as rejected_id,
    best.reward as chosen_reward, worst.reward as rejected_reward,
    best.reward - worst.reward as margin
from best
inner join worst
    on best.round is not distinct from worst.round and best.prompt_id = worst.prompt_id
where best.reward > worst.reward and best.reward - worst.reward >= $margin
    and best.completion <> worst.completion
order by best.round, best.prompt_id
"""

# Imported pairs come of both sides of the hold-out split, and are left out where they are held out
# or begin as a hold-out prompt does; the pairs of a round may not be of hold-out prompts at all.
STORED_PAIRS = f"""
with {_HOLDOUT_TURNS}
select pairs.*
from preference_pairs as pairs
left join rounds on pairs.round = rounds.round
left join prompts on pairs.prompt_id = prompts.prompt_id
left join rollouts as chosen on pairs.chosen_id = chosen.rollout_id
left join holdout_turns on prompts.first_turn_sha256 = holdout_turns.first_turn_sha256
where pairs.recipe = $recipe and pairs.margin >= $margin
    and ($rounds is null or list_contains($rounds, pairs.round))
    and (pairs.round is null or list_contains($statuses, rounds.status))
    and (
        pairs.round is not null
        or chosen.purpose = 'train' and holdout_turns.first_turn_sha256 is null
    )
"""

# `pairs` is registered by the caller. What only DPO needs is NULL where the two sides differ in it.
PAIR_ROWS = f"""
with {_REFERENCE},
sides as (
    select rollouts.*, rounds.reference_revision, reference.logps
    from rollouts
    {_SCORED_BY_REFERENCE}
),
joined as (
    select pairs.*, prompts.messages, prompts.purpose, chosen, rejected,
        chosen.prompt_ids = rejected.prompt_ids as is_same_prompt,
        chosen.reference_revision = rejected.reference_revision as is_same_reference
    from pairs
    left join prompts on pairs.prompt_id = prompts.prompt_id
    left join sides as chosen on pairs.chosen_id = chosen.rollout_id
    left join sides as rejected on pairs.rejected_id = rejected.rollout_id
)
select
    messages as prompt, chosen.completion as chosen, rejected.completion as rejected,
    case when is_same_prompt then chosen.prompt_ids end as prompt_ids,
    chosen.completion_ids as chosen_ids, rejected.completion_ids as rejected_ids,
    case when is_same_reference then chosen.logps end as ref_chosen_logps,
    case when is_same_reference then rejected.logps end as ref_rejected_logps,
    chosen.reference_revision as reference_revision, margin, chosen_id, rejected_id, prompt_id,
    round,
    chosen.rollout_id is not null and rejected.rollout_id is not null as is_stored,
    coalesce(purpose in ('train', 'pairs', 'imported'), false)
        and coalesce(chosen.purpose <> 'holdout', true)
        and coalesce(rejected.purpose <> 'holdout', true) as is_train,
    coalesce(chosen.prompt_id = prompt_id and rejected.prompt_id = prompt_id, false) as is_one
from joined
order by round, prompt_id, chosen_id, rejected_id
"""

# KTO's zero point is KL(policy || reference) at the prompts of a batch (Ethayarajh et al.
# 2402.01306, section 4.1). Offline it is estimated with mismatched completions; here the next
# sample of the same prompt serves, which is a draw of what the definition asks for, and whose
# reference log-prob is stored.
KTO_ROWS = f"""
with {_CANDIDATES},
scored as (
    select *, coalesce($threshold, avg(reward) over (partition by round))::float as threshold
    from candidates
),
neighbours as (
    select *,
        coalesce(lead(rollout_id) over samples, first_value(rollout_id) over samples) as next_id
    from scored
    window samples as (
        partition by round, prompt_id order by rollout_id
        rows between unbounded preceding and unbounded following
    )
)
select
    own.messages as prompt, own.completion, own.reward > own.threshold as label,
    own.prompt_ids, own.completion_ids, own.logps as ref_logps,
    other.completion_ids as KL_completion_ids, other.logps as ref_KL_logps,
    own.reference_revision, own.reward, own.threshold, own.rollout_id, own.prompt_id, own.round
from neighbours as own
inner join candidates as other on own.next_id = other.rollout_id
where own.reward <> own.threshold
order by own.round, own.prompt_id, own.rollout_id
"""

SFT_ROWS = f"""
with {_CANDIDATES}
select
    messages as prompt, completion, prompt_ids || completion_ids as input_ids,
    list_transform(prompt_ids, lambda x: -100) || completion_ids as labels,
    reward, rollout_id, prompt_id, round
from candidates
qualify row_number() over (partition by round, prompt_id order by reward desc, rollout_id) = 1
order by round, prompt_id
"""
