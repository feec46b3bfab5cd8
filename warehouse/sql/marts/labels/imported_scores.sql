-- one row per source, policy, purpose, labeler and criterion: the scores of imported completions
-- Imported completions have no round; policy is what their file says of the model, for TRL the step
-- it was logged at. Raw scores without a scale have status out_of_range and a raw mean alone.
with

final as (

    select
        prompts.source,
        rollouts.policy_revision,
        labels.purpose,
        labels.labeler,
        labels.criterion,
        count(*) as completions,
        count(labels.score) as scored,
        avg(labels.score_raw) as mean_raw,
        avg(labels.score) as mean_score,
        avg((labels.score >= 0.5)::int) as share_at_least_half,
    from labels
    inner join rollouts on labels.rollout_id = rollouts.rollout_id
    inner join prompts on rollouts.prompt_id = prompts.prompt_id
    where labels.kind = 'imported'
        and labels.is_final
    group by all
    order by all

)

select * from final
