-- one row per completion, labeler and criterion: the mean of its scores
-- A labeler that scored one completion several times (samples, principles) counts once. Only scores
-- of pointwise labels; a failed label is no row.
with

final as (

    select
        round,
        purpose,
        prompt_id,
        rollout_id,
        labeler,
        criterion,
        max(role) as role,
        avg(score) as score,
        count(*) as label_count,
    from current_labels
    where score is not null
        and partner_rollout_id is null
    group by round, purpose, prompt_id, rollout_id, labeler, criterion

)

select * from final
