-- one row per hold-out rollout that a training run used
select
    train_use.training_run_id,
    train_use.rollout_id,
from train_use
inner join rollouts on train_use.rollout_id = rollouts.rollout_id
where train_use.is_used
    and rollouts.purpose = 'holdout'
