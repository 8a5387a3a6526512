#!/usr/bin/env python3
"""The thirteen queries of the Star Schema Benchmark, in two forms.

    python ssb_queries.py starmere        # print them

Starmere joins on its keys, which stand for a version of a member; DuckDB's side joins on the benchmark's
natural integer keys. Everything else is the same text. Sums are cast to 64 bits so that both engines answer
with the same type. `d_yearmonth` is written `1994-01` and `d_weeknuminyear` is the ISO week, in both.
"""

import argparse
from typing import NamedTuple


class Form(NamedTuple):
    """How one side names tables and joins them to `lineorder lo`."""
    lineorder: str
    date: str
    customer: str
    supplier: str
    part: str


STARMERE = Form(
    lineorder="sales.ssb_v1.lineorder lo",
    date="JOIN sales.ssb_v1.dates d ON lo.order_date_key = d.date_key",
    customer="JOIN sales.ssb_v1.customer c ON lo.customer_key = c.customer_key",
    supplier="JOIN sales.ssb_v1.supplier s ON lo.supplier_key = s.supplier_key",
    part="JOIN sales.ssb_v1.part p ON lo.part_key = p.part_key",
)

DUCKDB = Form(
    lineorder="lineorder lo",
    date='JOIN "date" d ON lo.lo_orderdate = d.d_datekey',
    customer="JOIN customer c ON lo.lo_custkey = c.c_custkey",
    supplier="JOIN supplier s ON lo.lo_suppkey = s.s_suppkey",
    part="JOIN part p ON lo.lo_partkey = p.p_partkey",
)

DISCOUNT = "CAST(sum(lo_extendedprice * lo_discount) AS BIGINT) AS revenue"
REVENUE = "CAST(sum(lo_revenue) AS BIGINT) AS revenue"
PROFIT = "CAST(sum(lo_revenue - lo_supplycost) AS BIGINT) AS profit"


def queries(form: Form) -> dict[str, str]:
    lineorder, date, customer, supplier, part = form
    return {
        "1.1": f"""SELECT {DISCOUNT}
            FROM {lineorder} {date}
            WHERE d_year = 1993 AND lo_discount BETWEEN 1 AND 3 AND lo_quantity < 25""",
        "1.2": f"""SELECT {DISCOUNT}
            FROM {lineorder} {date}
            WHERE d_yearmonth = '1994-01' AND lo_discount BETWEEN 4 AND 6 AND lo_quantity BETWEEN 26 AND 35""",
        "1.3": f"""SELECT {DISCOUNT}
            FROM {lineorder} {date}
            WHERE d_weeknuminyear = 6 AND d_year = 1994
              AND lo_discount BETWEEN 5 AND 7 AND lo_quantity BETWEEN 26 AND 35""",
        "2.1": f"""SELECT {REVENUE}, d_year, p_brand1
            FROM {lineorder} {date} {part} {supplier}
            WHERE p_category = 'MFGR#12' AND s_region = 'AMERICA'
            GROUP BY d_year, p_brand1 ORDER BY d_year, p_brand1""",
        "2.2": f"""SELECT {REVENUE}, d_year, p_brand1
            FROM {lineorder} {date} {part} {supplier}
            WHERE p_brand1 BETWEEN 'MFGR#2221' AND 'MFGR#2228' AND s_region = 'ASIA'
            GROUP BY d_year, p_brand1 ORDER BY d_year, p_brand1""",
        "2.3": f"""SELECT {REVENUE}, d_year, p_brand1
            FROM {lineorder} {date} {part} {supplier}
            WHERE p_brand1 = 'MFGR#2239' AND s_region = 'EUROPE'
            GROUP BY d_year, p_brand1 ORDER BY d_year, p_brand1""",
        "3.1": f"""SELECT c_nation, s_nation, d_year, {REVENUE}
            FROM {lineorder} {customer} {supplier} {date}
            WHERE c_region = 'ASIA' AND s_region = 'ASIA' AND d_year BETWEEN 1992 AND 1997
            GROUP BY c_nation, s_nation, d_year ORDER BY d_year, revenue DESC""",
        "3.2": f"""SELECT c_city, s_city, d_year, {REVENUE}
            FROM {lineorder} {customer} {supplier} {date}
            WHERE c_nation = 'UNITED STATES' AND s_nation = 'UNITED STATES' AND d_year BETWEEN 1992 AND 1997
            GROUP BY c_city, s_city, d_year ORDER BY d_year, revenue DESC""",
        "3.3": f"""SELECT c_city, s_city, d_year, {REVENUE}
            FROM {lineorder} {customer} {supplier} {date}
            WHERE c_city IN ('UNITED KI1', 'UNITED KI5') AND s_city IN ('UNITED KI1', 'UNITED KI5')
              AND d_year BETWEEN 1992 AND 1997
            GROUP BY c_city, s_city, d_year ORDER BY d_year, revenue DESC""",
        "3.4": f"""SELECT c_city, s_city, d_year, {REVENUE}
            FROM {lineorder} {customer} {supplier} {date}
            WHERE c_city IN ('UNITED KI1', 'UNITED KI5') AND s_city IN ('UNITED KI1', 'UNITED KI5')
              AND d_yearmonth = '1997-12'
            GROUP BY c_city, s_city, d_year ORDER BY d_year, revenue DESC""",
        "4.1": f"""SELECT d_year, c_nation, {PROFIT}
            FROM {lineorder} {date} {customer} {supplier} {part}
            WHERE c_region = 'AMERICA' AND s_region = 'AMERICA' AND p_mfgr IN ('MFGR#1', 'MFGR#2')
            GROUP BY d_year, c_nation ORDER BY d_year, c_nation""",
        "4.2": f"""SELECT d_year, s_nation, p_category, {PROFIT}
            FROM {lineorder} {date} {customer} {supplier} {part}
            WHERE c_region = 'AMERICA' AND s_region = 'AMERICA' AND d_year IN (1997, 1998)
              AND p_mfgr IN ('MFGR#1', 'MFGR#2')
            GROUP BY d_year, s_nation, p_category ORDER BY d_year, s_nation, p_category""",
        "4.3": f"""SELECT d_year, s_city, p_brand1, {PROFIT}
            FROM {lineorder} {date} {customer} {supplier} {part}
            WHERE c_region = 'AMERICA' AND s_nation = 'UNITED STATES' AND d_year IN (1997, 1998)
              AND p_category = 'MFGR#14'
            GROUP BY d_year, s_city, p_brand1 ORDER BY d_year, s_city, p_brand1""",
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("form", choices=["starmere", "duckdb"])
    options = arguments.parse_args()
    for name, sql in queries(STARMERE if options.form == "starmere" else DUCKDB).items():
        print(f"-- {name}\n{' '.join(sql.split())};\n")


if __name__ == "__main__":
    main()
