-- one row per completion and revision recipe: what a reviser made of it, by which principle and why
-- is_revised: it changed the completion (then recipe, chosen revised_id, rejected rollout_id stand
-- in preference_pairs); NULL where the call failed, with its status. Calls and cost_usd cover all
-- attempts.
with

calls as (

    select
        *,
        count(*) over (partition by label_key) as calls,
        sum(cost_usd) over (partition by label_key) as all_cost_usd,
    from labels
    where kind = 'reviser'

),

final as (

    select
        calls.round,
        'revision/' || calls.labeler || '@' || calls.revision as recipe,
        calls.rollout_id,
        calls.prompt_id,
        calls.principle,
        calls.status,
        calls.status_detail,
        calls.score = 1 as is_revised,
        prompt_texts.prompt,
        original.completion as original,
        calls.rationale as critique,
        revised.completion as revised,
        pairs.chosen_id as revised_id,
        calls.model,
        calls.calls,
        calls.all_cost_usd as cost_usd,
    from calls
    inner join rollouts as original on calls.rollout_id = original.rollout_id
    left join prompt_texts on calls.prompt_id = prompt_texts.prompt_id
    left join preference_pairs as pairs
        on calls.rollout_id = pairs.rejected_id
        and 'revision/' || calls.labeler || '@' || calls.revision = pairs.recipe
    left join rollouts as revised on pairs.chosen_id = revised.rollout_id
    where calls.is_final
    order by calls.round, recipe, calls.rollout_id

)

select * from final
