"""The warehouse: reading ten and a hundred million labels, publishing against bare pyarrow.

`python -m tests.benchmarks warehouse` runs it whole: the year of nights takes 12 GB of disk and ten
minutes to make, once; it stays in the folder. `python -m tests.benchmarks.warehouse --folder F
--scale 0.01` runs a smaller one. Wanted are ratios of two ways in turn in one run, and for the year
seconds on two threads under a memory limit of 2 GB, each time in a process of its own.
Not here: the nights (warehouse_nights.py) and the figures of publish (warehouse_publish.py).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import duckdb
import pyarrow.parquet as pq

from tests.benchmarks.figures import Seconds, print_figure, seconds_in_turn
from tests.benchmarks.warehouse_nights import Nights, made_up_nights
from tests.benchmarks.warehouse_publish import print_one_more_night, print_publish
from warehouse.catalog.catalog import connect, create_functions, load_query, open_connection
from warehouse.ledger.data_files import parquet_writer
from warehouse.ledger.ledger import Ledger
from warehouse.schemas import TABLES
from warehouse.store import open_store

REPEATS = 5
TABLES_READ = ("labels", "prompt_sums", "rollouts", "rewards")
MART = "from toxicity_by_round"
CORE = """
    select round, labeler, avg((score >= 0.5)::integer) as rate, avg(score) as mean_score
    from labels
    where purpose = 'holdout' and criterion = 'toxicity' and score is not null
    group by round, labeler order by all
"""
ONE_ROUND = """
    select labeler, count(*), avg(score) from labels where round = 0 group by labeler order by all
"""
_OPEN_AND_ASK = """
import json, resource, time
from warehouse.catalog.catalog import connect
started = time.perf_counter()
con = connect({root!r})
opened = time.perf_counter()
con.execute("set threads = 2; set memory_limit = '1.5GB'")
rows = len(con.sql({query!r}).to_arrow_table())
first = time.perf_counter()
con.sql({query!r}).to_arrow_table()
again = time.perf_counter()
print(json.dumps(dict(rows=rows, opening=opened - started, first=first - opened,
    again=again - first, peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)))
"""


def main(arguments: Sequence[str] = ()) -> None:
    """Makes the nights that are not there yet, prints the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.warehouse")
    kept = Path(tempfile.gettempdir()) / "roundhouse-nights"
    parser.add_argument("--folder", type=Path, default=kept, help="where the nights are kept")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the labels a night")
    chosen = parser.parse_args(arguments)
    folder = chosen.folder / f"{chosen.scale:g}"
    month = Nights(rounds=30, labels=round(333_400 * chosen.scale))
    year = Nights(rounds=365, labels=round(274_000 * chosen.scale), words=0)
    print_against_one_file(folder, month)
    print_year(folder, year)
    print_one_more_night(folder, year)
    print_publish(folder, round(274_000 * chosen.scale))


def print_against_one_file(folder: Path, nights: Nights) -> None:
    """Toxicity by round over a warehouse against the same over one ideal file of each table."""
    root = made_up_nights(folder / "month", nights)
    ways = {"warehouse": connect(root), "one file": ideal_connection(root, folder / "ideal")}
    for con in ways.values():
        con.execute("set threads = 2")
    for name, query in (("toxicity by round, the mart", MART), ("and on labels alone", CORE)):
        answers = [con.sql(query).fetchall() for con in ways.values()]
        assert [row[:2] for row in answers[0]] == [row[:2] for row in answers[1]]
        spent = seconds_in_turn(_asking(ways, query), REPEATS)
        ours, theirs = (median(s.wall for s in spent[way]) for way in ways)
        print_figure(
            name,
            f"{nights.rounds * nights.labels / 1e6:g} M labels: warehouse {ours * 1e3:.0f} ms, "
            f"one ideal file {theirs * 1e3:.0f} ms, ratio {ours / theirs:.2f}",
            wanted="<= 1.3",
            is_met=ours / theirs <= 1.3,
            note=f"in CPU time {_cpu(spent['warehouse']) / _cpu(spent['one file']):.2f}",
        )


def ideal_connection(root: Path, folder: Path) -> duckdb.DuckDBPyConnection:
    """The rows of the warehouse `root` in one file a table, encoded alike, under the same marts.

    Sorted as a question for a labeler's hold-out scores would want it; what is there already is not
    written again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    con = open_connection()
    ledger = Ledger(open_store(root, read_only=True))
    for name in TABLES_READ:
        path = folder / f"{name}.parquet"
        if not path.exists():
            # The files of a purpose follow each other in the order of labelers, each night.
            files = sorted(ledger.files(table=name), key=lambda file: "purpose=train" in file.path)
            unfinished = path.with_suffix(".unfinished")
            with parquet_writer(name, str(unfinished)) as writer:
                for file in files:
                    rows = pq.ParquetFile(root / file.path).read().cast(TABLES[name].schema)
                    writer.write_table(rows, TABLES[name].row_group_size)
            unfinished.rename(path)
        con.execute(f"create view {name} as from read_parquet('{path}')")
    create_functions(con)
    for mart in ("prompt_scores", "toxicity_by_round"):
        con.execute(f"create view {mart} as {load_query(mart)}")
    return con


def print_year(folder: Path, nights: Nights) -> None:
    """Opening the year and asking it once, in fresh processes; and what one round costs there."""
    root = made_up_nights(folder / "year", nights)
    call = _OPEN_AND_ASK.format(root=str(root), query=MART)
    runs = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", call], check=True, capture_output=True, text=True
            ).stdout.splitlines()[-1]  # before it stands the progress of a slow query
        )
        for _ in range(REPEATS)
    ]
    opening, first, again, peak = (
        median(run[name] for run in runs) for name in ("opening", "first", "again", "peak")
    )
    size = f"{nights.rounds * nights.labels / 1e6:g} M labels, {nights.rounds} rounds"
    print_figure("a year opens", f"{size}: {opening:.2f} s", wanted="< 1 s", is_met=opening < 1)
    print_figure(
        "a year's toxicity by round",
        f"{first:.2f} s, again {again:.2f} s, 2 threads, peak memory {peak:,.0f} MB",
        wanted="< 2 s, < 2,000 MB",
        is_met=first < 2 and peak < 2000,
        note="right after opening; the files in the page cache",
    )
    print_one_round(folder, root, nights)


def print_one_round(folder: Path, year: Path, nights: Nights) -> None:
    """One round of the year against the same round as the only one."""
    night = made_up_nights(folder / "night", Nights(1, nights.labels, nights.words))
    con = {"night": connect(night), "year": connect(year), "of year": connect(year, rounds=[0])}
    spent = seconds_in_turn(_asking(con, ONE_ROUND), 20)
    alone, whole, restricted = (median(s.wall for s in spent[way]) for way in con)
    print_figure(
        "one round of a year",
        f"{restricted * 1e3:.1f} ms, on the first night {alone * 1e3:.1f} ms, ratio "
        f"{restricted / alone:.2f}; without connect(rounds=) {whole * 1e3:.1f} ms",
        wanted="0.8 to 1.2",
        is_met=restricted / alone <= 1.2,
    )


def _asking(connections: dict[str, duckdb.DuckDBPyConnection], query: str):
    return {
        name: lambda _, con=con: con.sql(query).to_arrow_table()
        for name, con in connections.items()
    }


def _cpu(spent: list[Seconds]) -> float:
    return median(s.cpu for s in spent)


if __name__ == "__main__":
    main(sys.argv[1:])
