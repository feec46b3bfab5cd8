-- one row per rollout that has a reward though it may not train, or the reverse
select
    rollout_id,
    recipe,
    is_eligible,
    excluded_reason,
    reward,
from rewards
where is_eligible <> coalesce(isfinite(reward), false)
    or is_eligible <> (excluded_reason is null)
