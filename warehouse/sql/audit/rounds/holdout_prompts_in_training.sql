-- one row per training run and hold-out prompt that it trained on: is the hold-out clean?
-- A prompt counts as held out if its rollout was sampled as hold-out, or if it shares its first
-- human turn with a hold-out prompt.
with

holdout_turns as (

    select distinct first_turn_sha256
    from prompts
    where purpose = 'holdout'

),

final as (

    select
        train_use.training_run_id,
        train_use.round,
        rollouts.prompt_id,
        count(*) as rollouts,
    from train_use
    inner join rollouts on train_use.rollout_id = rollouts.rollout_id
    left join prompts on rollouts.prompt_id = prompts.prompt_id
    left join holdout_turns on prompts.first_turn_sha256 = holdout_turns.first_turn_sha256
    where train_use.is_used
        and (rollouts.purpose = 'holdout' or holdout_turns.first_turn_sha256 is not null)
    group by train_use.training_run_id, train_use.round, rollouts.prompt_id
    order by train_use.round, train_use.training_run_id, rollouts.prompt_id

)

select * from final
