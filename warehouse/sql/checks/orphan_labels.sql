-- one row per label that judges a rollout which is not in the warehouse
select
    labels.label_id,
    labels.rollout_id,
    labels.partner_rollout_id,
from labels
left join rollouts as judged on labels.rollout_id = judged.rollout_id
left join rollouts as partner on labels.partner_rollout_id = partner.rollout_id
where judged.rollout_id is null
    or (labels.partner_rollout_id is not null and partner.rollout_id is null)
