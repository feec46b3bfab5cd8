-- one row per label of a rollout that is not in the warehouse, or that has another purpose
select
    labels.label_id,
    labels.rollout_id,
    labels.partner_rollout_id,
    labels.purpose,
from labels
left join rollouts as judged on labels.rollout_id = judged.rollout_id
left join rollouts as partner on labels.partner_rollout_id = partner.rollout_id
where judged.rollout_id is null
    or (labels.partner_rollout_id is not null and partner.rollout_id is null)
    or labels.purpose <> judged.purpose
