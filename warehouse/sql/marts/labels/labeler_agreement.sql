-- one row per round, purpose, criterion and pair of labelers: how far the two agree
-- Over completions that both scored; yes is a score of at least .5. kappa is Cohen's (NULL where
-- both labelers always say the same word), ac1 Gwet's. Read kappa beside the prevalences: it
-- collapses when one labeler sees almost no yes, and a gap between the prevalences of a reward
-- labeler and an independent one is the earliest sign of a gamed reward.
with

pairs as (

    select
        a.round,
        a.purpose,
        a.criterion,
        a.labeler as labeler_a,
        b.labeler as labeler_b,
        a.score as score_a,
        b.score as score_b,
        (a.score >= 0.5)::int as yes_a,
        (b.score >= 0.5)::int as yes_b,
    from completion_scores as a
    inner join completion_scores as b
        on a.rollout_id = b.rollout_id
        and a.criterion = b.criterion
        and a.labeler < b.labeler

),

counts as (

    select
        round,
        purpose,
        criterion,
        labeler_a,
        labeler_b,
        count(*) as n,
        avg((yes_a = yes_b)::int) as po,
        avg(yes_a) as prevalence_a,
        avg(yes_b) as prevalence_b,
        corr(score_a, score_b) as pearson,
        prevalence_a * prevalence_b + (1 - prevalence_a) * (1 - prevalence_b) as kappa_chance,
        (prevalence_a + prevalence_b) * (2 - prevalence_a - prevalence_b) / 2 as ac1_chance,
    from pairs
    group by round, purpose, criterion, labeler_a, labeler_b

),

final as (

    select
        round,
        purpose,
        criterion,
        labeler_a,
        labeler_b,
        n,
        po,
        (po - kappa_chance) / nullif(1 - kappa_chance, 0) as kappa,
        (po - ac1_chance) / (1 - ac1_chance) as ac1,
        case when isfinite(pearson) then pearson end as pearson,
        prevalence_a,
        prevalence_b,
    from counts
    order by round, purpose, criterion, labeler_a, labeler_b

)

select * from final
