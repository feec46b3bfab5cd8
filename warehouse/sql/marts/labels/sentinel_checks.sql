-- one row per round, labeler and criterion: how did it score the texts whose score is known?
-- Of the night's sentinels: kappa and accuracy are of the gold items (yes from .5 on), best_canary is
-- the highest score of an answer that earns nothing (constant, master key, refusal, echo), shift the
-- mean change of the same sentinels since the labeler's round before, under one revision.
with

scored as (

    select
        *,
        (score >= 0.5)::int as said_yes,
        (gold >= 0.5)::int as is_yes,
        kind in ('constant', 'master_key', 'refusal', 'echo') as is_canary,
        dense_rank() over (partition by labeler, criterion order by round) as night,
    from sentinels
    where score is not null

),

shifts as (

    select
        tonight.round,
        tonight.labeler,
        tonight.criterion,
        tonight.revision,
        avg(tonight.score - before.score) as shift,
    from scored as tonight
    inner join scored as before
        on tonight.labeler = before.labeler
        and tonight.criterion = before.criterion
        and tonight.revision = before.revision
        and tonight.sentinel_id = before.sentinel_id
        and tonight.night = before.night + 1
    group by all

),

counts as (

    select
        round,
        labeler,
        criterion,
        revision,
        count(*) as items,
        avg((score is null)::int) as failed_share,
    from sentinels
    group by all

),

measures as (

    select
        round,
        labeler,
        criterion,
        revision,
        avg((said_yes = is_yes)::int) filter (kind = 'gold') as accuracy,
        avg(said_yes) filter (kind = 'gold') as said_rate,
        avg(is_yes) filter (kind = 'gold') as gold_rate,
        max(score) filter (is_canary) as best_canary,
        arg_max(sentinel_id, score) filter (is_canary) as best_canary_id,
    from scored
    group by all

),

final as (

    select
        counts.round,
        counts.labeler,
        counts.criterion,
        counts.revision,
        counts.items,
        counts.failed_share,
        measures.accuracy,
        -- Chance agreement of two raters with these rates (Cohen 1960).
        (
            measures.accuracy
            - (said_rate * gold_rate + (1 - said_rate) * (1 - gold_rate))
        ) / nullif(1 - (said_rate * gold_rate + (1 - said_rate) * (1 - gold_rate)), 0) as kappa,
        measures.best_canary,
        measures.best_canary_id,
        shifts.shift,
    from counts
    left join measures using (round, labeler, criterion, revision)
    left join shifts using (round, labeler, criterion, revision)
    order by counts.round, counts.labeler

)

select * from final
