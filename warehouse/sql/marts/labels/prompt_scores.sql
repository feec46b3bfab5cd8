-- one row per round, hold-out prompt, labeler and criterion: the scores of its completions, summed up
-- high_count is of scores of at least .5. A completion that a labeler scored several times counts
-- once; one without a score does not count. Of several revisions of a labeler the one that
-- current_labels goes by counts; it is looked up for those alone, in the rewards of their rounds.
with

contested as materialized (

    select
        round,
        labeler,
        criterion,
        revision,
        max(last_labeled_at) as last_labeled_at,
    from prompt_sums
    group by round, labeler, criterion, revision
    qualify count(*) over (partition by round, labeler, criterion) > 1

),

rewarded_labels as (

    select
        contested.*,
        unnest(rewards.label_ids) as label_id,
    from rewards
    inner join contested on rewards.round is not distinct from contested.round

),

rewarded_revisions as (

    select distinct
        labels.round,
        labels.labeler,
        labels.criterion,
        labels.revision,
    from labels
    semi join rewarded_labels
        on labels.label_id = rewarded_labels.label_id
        and labels.round is not distinct from rewarded_labels.round
        and labels.labeler = rewarded_labels.labeler
        and labels.criterion = rewarded_labels.criterion

),

superseded as (

    select contested.*
    from contested
    left join rewarded_revisions as rewarded
        on contested.round is not distinct from rewarded.round
        and contested.labeler = rewarded.labeler
        and contested.criterion = rewarded.criterion
        and contested.revision = rewarded.revision
    qualify row_number() over (
        partition by contested.round, contested.labeler, contested.criterion
        order by
            rewarded.revision is not null desc,
            contested.last_labeled_at desc,
            contested.revision
    ) > 1

),

final as (

    select sums.* exclude (revision, last_labeled_at)
    from prompt_sums as sums
    anti join superseded
        on sums.round is not distinct from superseded.round
        and sums.labeler = superseded.labeler
        and sums.criterion = superseded.criterion
        and sums.revision = superseded.revision
    where sums.completions > 0

)

select * from final
