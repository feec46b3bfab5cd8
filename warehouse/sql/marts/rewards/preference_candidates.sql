-- one row per round and prompt: the best and the worst rewarded completion of a completed round
-- Only train rollouts that may train, only where the two completions and the two rewards differ.
-- A completion cut off at its token limit is seldom a good chosen one: see the finish reasons.
with

candidates as (

    select scored_rollouts.*
    from scored_rollouts
    inner join rounds on scored_rollouts.round = rounds.round
    where scored_rollouts.purpose = 'train'
        and scored_rollouts.is_eligible
        and rounds.status = 'completed'

),

best as (

    select *
    from candidates
    qualify row_number() over (
        partition by round, prompt_id
        order by reward desc, sample_index
    ) = 1

),

worst as (

    select *
    from candidates
    qualify row_number() over (
        partition by round, prompt_id
        order by reward, sample_index
    ) = 1

),

final as (

    select
        best.round,
        best.prompt_id,
        best.prompt,
        best.rollout_id as chosen_id,
        worst.rollout_id as rejected_id,
        best.completion as chosen,
        worst.completion as rejected,
        best.reward as chosen_reward,
        worst.reward as rejected_reward,
        best.reward - worst.reward as margin,
        best.finish_reason as chosen_finish_reason,
        worst.finish_reason as rejected_finish_reason,
        best.recipe,
        best.recipe_sha256,
    from best
    inner join worst
        on best.round = worst.round
        and best.prompt_id = worst.prompt_id
    where best.reward > worst.reward
        and best.completion <> worst.completion
    order by best.round, best.prompt_id

)

select * from final
