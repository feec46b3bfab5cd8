-- One row per train rollout of the window, with the reason why it may not train, or NULL.
-- The reasons run from "there is nothing to train on" to "the log-probs mean something else": whoever
-- samples with top_p, penalties and the like draws from a distribution whose log-probs nobody
-- stored, and no importance weight can correct that. $newest is the window's last round, $round the
-- one whose night it is: they differ where training lags behind.
with considered as (
    select rollouts.*, rewards.reward, rewards.is_eligible, bent_sampling.reason as bent,
        rewards.rollout_id is not null as is_rewarded,
        rewards.excluded_reason as reward_reason, rounds.status
    from rollouts
    left join rounds using (round)
    left join rewards
        on rollouts.rollout_id = rewards.rollout_id and rewards.recipe_sha256 = $recipe
    left join bent_sampling using (sampling_json)
    where rollouts.purpose = 'train'
),

decided as (
    select
        rollout_id, round as source_round, prompt_id, prompt_ids, completion_ids,
        behavior_logprobs, finish_reason, dtype,
        policy_revision = $revision as is_fresh,
        case when isfinite(reward) then reward end as reward,
        case
            when round < $newest and not list_contains($statuses, coalesce(status, 'unfinished'))
                then 'its round is ' || coalesce(status, 'unfinished')
            when not is_rewarded then 'no reward under this recipe'
            when not is_eligible then 'reward: ' || coalesce(reward_reason, 'not eligible')
            when not coalesce(isfinite(reward), false) then 'reward is not a finite number'
            when completion_ids is null and starts_with(engine, 'import/')
                then 'imported text: PPO needs the token ids and log-probs of its own policy'
            when completion_ids is null or coalesce(len(prompt_ids), 0) = 0 then 'no token ids'
            when len(completion_ids) = 0 then 'empty completion'
            when behavior_logprobs is null then 'no behavior log-probs'
            when len(behavior_logprobs) <> len(completion_ids)
                then 'behavior log-probs do not match the tokens'
            when len(list_filter(behavior_logprobs, lambda x: coalesce(isfinite(x), false)))
                < len(behavior_logprobs) then 'behavior log-probs are not finite'
            when round = $round and policy_revision <> $revision then 'sampled by another policy'
            when tokenizer_sha256 <> $tokenizer then 'tokenized by another tokenizer'
            when coalesce(finish_reason, '') not in ('stop', 'length')
                then 'finish_reason ' || coalesce(finish_reason, 'unknown')
            when logprobs_mode is distinct from 'raw_logprobs'
                then 'logprobs_mode ' || coalesce(logprobs_mode, 'unknown')
            when temperature is distinct from 1 then 'temperature is not 1'
            when top_p is distinct from 1 then 'top_p is not 1'
            when top_k is null or top_k not in (-1, 0) then 'top_k is set'
            else bent
        end as excluded_reason
    from considered
)
select
    * exclude (excluded_reason),
    case
        when excluded_reason is null and $is_grouped
            and count(*) filter (excluded_reason is null) over (
                partition by source_round, prompt_id
            ) < 2 then 'no other completion of its prompt may train (advantage rloo)'
        else excluded_reason
    end as excluded_reason
from decided
order by rollout_id
