-- one row per round, hold-out prompt, labeler and criterion: the scores of its completions, summed up
-- high_count is of scores of at least .5. A completion that a labeler scored several times counts
-- once; one without a score does not count.
with

final as (

    select
        round,
        prompt_id,
        labeler,
        criterion,
        max(role) as role,
        count(*) as completions,
        count(*) filter (score >= 0.5) as high_count,
        sum(score) as score_sum,
        sum(score * score) as score_squares,
        max(score) as score_max,
    from completion_scores
    where purpose = 'holdout'
    group by round, prompt_id, labeler, criterion

)

select * from final
