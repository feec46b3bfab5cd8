-- one row per final label, under the one revision of its labeler that a round goes by
-- Where a round has labels of one criterion (and purpose) by several revisions of a labeler, those
-- of the revision that its rewards used count, else of the one that labeled last. Failed labels
-- stand here too, with their status and no score. What revisers wrote measures no completion and
-- stands elsewhere (revisions).
-- What a reader asks of purpose, round, labeler and criterion reaches every part: all parts have
-- these four, and are `not materialized`, so that only the files and row groups in question are read.
with

final_labels as not materialized (

    select *
    from labels
    where is_final
        and kind <> 'reviser'
        and purpose is not null

),

contested as not materialized (

    select
        round,
        purpose,
        labeler,
        criterion,
    from final_labels
    group by round, purpose, labeler, criterion
    having min(revision) <> max(revision)

),

revisions as not materialized (

    -- Most rounds have one revision: this reads labels of the others only.
    select
        contested.round,
        contested.purpose,
        contested.labeler,
        contested.criterion,
        final_labels.revision,
        max(final_labels.labeled_at) as last_labeled_at,
    from final_labels
    inner join contested
        on final_labels.round is not distinct from contested.round
        and final_labels.purpose = contested.purpose
        and final_labels.labeler = contested.labeler
        and final_labels.criterion = contested.criterion
    group by all

),

rewarded_labels as not materialized (

    select
        revisions.*,
        unnest(rewards.label_ids) as label_id,
    from rewards
    inner join revisions on rewards.round is not distinct from revisions.round

),

rewarded_revisions as not materialized (

    select distinct
        rewarded_labels.round,
        rewarded_labels.purpose,
        rewarded_labels.labeler,
        rewarded_labels.criterion,
        rewarded_labels.revision,
    from rewarded_labels
    inner join labels
        on rewarded_labels.label_id = labels.label_id
        and rewarded_labels.round is not distinct from labels.round
        and rewarded_labels.labeler = labels.labeler
        and rewarded_labels.criterion = labels.criterion
        and rewarded_labels.revision = labels.revision

),

superseded as not materialized (

    select
        revisions.*,
    from revisions
    left join rewarded_revisions
        on revisions.round is not distinct from rewarded_revisions.round
        and revisions.purpose = rewarded_revisions.purpose
        and revisions.labeler = rewarded_revisions.labeler
        and revisions.criterion = rewarded_revisions.criterion
        and revisions.revision = rewarded_revisions.revision
    qualify row_number() over (
        partition by revisions.round, revisions.purpose, revisions.labeler, revisions.criterion
        order by
            rewarded_revisions.revision is not null desc,
            revisions.last_labeled_at desc,
            revisions.revision
    ) > 1

),

final as (

    -- An anti join, but through this one a condition on the left side reaches the right side.
    select final_labels.*
    from final_labels
    left join superseded
        on final_labels.round is not distinct from superseded.round
        and final_labels.purpose = superseded.purpose
        and final_labels.labeler = superseded.labeler
        and final_labels.criterion = superseded.criterion
        and final_labels.revision = superseded.revision
    where superseded.revision is null

)

select * from final
