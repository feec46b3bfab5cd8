-- one row per training run and rollout it considered, with all that made it count
-- Back from a policy to the rows that trained it: is_used tells which did, excluded_reason why not.
-- trained_revision is the policy that came of the run, policy_revision_in the one it began with,
-- sampled_by the one that wrote the completion, which replay makes an older one. label_ids are the
-- labels behind the reward, seed is that of the sample.
with

final as (

    select
        train_use.training_run_id,
        train_use.round,
        train_use.rollout_id,
        train_use.source_round,
        train_use.is_used,
        train_use.excluded_reason,
        train_use.reward,
        train_use.importance_weight,
        train_use.advantage_mean,
        train_use.epochs,
        rollouts.prompt_id,
        rollouts.sample_index,
        rollouts.policy_revision as sampled_by,
        rollouts.seed,
        trainings.policy_revision_in,
        trainings.trained_revision,
        trainings.recipe_sha256,
        rewards.label_ids,
        trainings.config_sha256,
        trainings.code_version,
    from train_use
    left join trainings on train_use.training_run_id = trainings.training_run_id
    left join rollouts on train_use.rollout_id = rollouts.rollout_id
    left join rewards
        on train_use.rollout_id = rewards.rollout_id
        and trainings.recipe_sha256 = rewards.recipe_sha256
    order by train_use.round, train_use.training_run_id, train_use.rollout_id

)

select * from final
