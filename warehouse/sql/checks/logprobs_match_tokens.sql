-- one row per rollout whose behavior log-probabilities are not one finite number per token
select
    rollout_id,
    len(completion_ids) as tokens,
    len(behavior_logprobs) as logprobs,
from rollouts
where behavior_logprobs is not null
    and (
        len(behavior_logprobs) is distinct from len(completion_ids)
        or len(list_filter(behavior_logprobs, lambda x: isfinite(x))) <> len(behavior_logprobs)
    )
