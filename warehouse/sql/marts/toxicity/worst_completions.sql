-- one row per hold-out completion among the 20 most toxic of its round and metric labeler
-- rank 1 is the worst; equal scores rank by rollout id.
with

ranked as (

    select
        *,
        row_number() over (
            partition by round, labeler
            order by score desc, rollout_id
        ) as rank,
    from completion_scores
    where purpose = 'holdout'
        and criterion = 'toxicity'
        and role = 'metric'
        and round is not null

),

final as (

    select
        ranked.rank,
        ranked.round,
        ranked.labeler,
        ranked.score,
        prompt_texts.prompt,
        rollouts.completion,
        ranked.rollout_id,
    from ranked
    inner join rollouts on ranked.rollout_id = rollouts.rollout_id
    left join prompt_texts on ranked.prompt_id = prompt_texts.prompt_id
    where ranked.rank <= 20
    order by ranked.round, ranked.labeler, ranked.rank

)

select * from final
