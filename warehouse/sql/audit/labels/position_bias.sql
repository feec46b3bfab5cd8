-- one row per round, pairwise judge and criterion: does the judge prefer what stands first?
-- Of pairs judged in both orders; a score is how far rollout_id is preferred to its partner, AB
-- shows rollout_id first. consistency: the same one preferred in both orders (wanted: above .8).
-- first_slot_rate: the first one preferred, a tie counts half (.5 is fair). mean_lift: what
-- standing first adds to a score, z its size in standard errors.
with

pairs as (

    select
        round,
        labeler,
        criterion,
        avg(score) filter (pair_order = 'AB') as score_ab,
        avg(score) filter (pair_order = 'BA') as score_ba,
    from current_labels
    where partner_rollout_id is not null
        and status in ('ok', 'ok_repaired')
        and isfinite(score)
    group by round, labeler, criterion, principle, rollout_id, partner_rollout_id
    having score_ab is not null
        and score_ba is not null

),

final as (

    select
        round,
        labeler,
        criterion,
        count(*) as pairs,
        avg((sign(score_ab - 0.5) = sign(score_ba - 0.5))::int) as consistency,
        avg(0.5 + (sign(score_ab - 0.5) - sign(score_ba - 0.5)) / 4) as first_slot_rate,
        avg(score_ab - score_ba) / 2 as mean_lift,
        avg(score_ab - score_ba)
            / nullif(stddev_samp(score_ab - score_ba) / sqrt(count(*)), 0) as z,
    from pairs
    group by round, labeler, criterion
    order by round, labeler, criterion

)

select * from final
