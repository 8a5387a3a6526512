#!/usr/bin/env python3
"""The thirteen queries of the Star Schema Benchmark, in two forms.

    python ssb_queries.py starmere        # print them

Starmere joins on its keys, which stand for a version of a member; DuckDB's side joins on the benchmark's
natural integer keys. Everything else is the same text. Sums are cast to 64 bits so that both engines answer
with the same type. `d_yearmonth` is written `1994-01` and `d_weeknuminyear` is the ISO week, in both.
`literals(0)` are the benchmark's; other numbers give others, of about the same selectivity.
"""

import argparse
import random
from typing import NamedTuple

from ssb_generate import NATIONS


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


class Literals(NamedTuple):
    """What the queries ask for. A literal has the number of the queries that it is in."""
    year_11: int = 1993
    discount_11: int = 1
    month_12: str = "1994-01"
    discount_12: int = 4
    week_13: int = 6
    year_13: int = 1994
    discount_13: int = 5
    category_21: str = "MFGR#12"
    region_21: str = "AMERICA"
    category_22: str = "MFGR#22"
    region_22: str = "ASIA"
    brand_23: str = "MFGR#2239"
    region_23: str = "EUROPE"
    region_31: str = "ASIA"
    nation_32: str = "UNITED STATES"
    cities_33: tuple[str, str] = ("UNITED KI1", "UNITED KI5")
    month_34: str = "1997-12"
    region_4: str = "AMERICA"
    makers_4: tuple[str, str] = ("MFGR#1", "MFGR#2")
    years_4: tuple[int, int] = (1997, 1998)
    nation_43: str = "UNITED STATES"
    category_43: str = "MFGR#14"


def literals(seed: int) -> Literals:
    if seed == 0:
        return Literals()
    pick = random.Random(seed)
    regions = sorted(set(NATIONS.values()))

    def category() -> str:
        return f"MFGR#{pick.randint(1, 5)}{pick.randint(1, 5)}"

    def month() -> str:
        return f"{pick.randint(1992, 1997)}-{pick.randint(1, 12):02}"

    nation, year, region = pick.choice(list(NATIONS)), pick.randint(1992, 1997), pick.choice(regions)
    digits, makers = pick.sample(range(10), 2), pick.sample(range(1, 6), 2)
    return Literals(
        year_11=pick.randint(1992, 1997), discount_11=pick.randint(1, 7), month_12=month(), discount_12=pick.randint(1, 7),
        week_13=pick.randint(2, 51), year_13=pick.randint(1992, 1997), discount_13=pick.randint(1, 7),
        category_21=category(), region_21=pick.choice(regions), category_22=category(), region_22=pick.choice(regions),
        brand_23=f"{category()}{pick.randint(10, 40)}", region_23=pick.choice(regions), region_31=pick.choice(regions),
        nation_32=pick.choice(list(NATIONS)), cities_33=tuple(f"{nation[:9]:<9}{digit}" for digit in digits),
        month_34=month(), region_4=region, makers_4=tuple(f"MFGR#{maker}" for maker in makers), years_4=(year, year + 1),
        nation_43=pick.choice([name for name, of in NATIONS.items() if of == region]), category_43=category())


def queries(form: Form, asked: Literals = Literals()) -> dict[str, str]:
    lineorder, date, customer, supplier, part = form
    cities = "('{}', '{}')".format(*asked.cities_33)
    makers, years = "('{}', '{}')".format(*asked.makers_4), "({}, {})".format(*asked.years_4)
    return {
        "1.1": f"""SELECT {DISCOUNT}
            FROM {lineorder} {date}
            WHERE d_year = {asked.year_11} AND lo_discount BETWEEN {asked.discount_11} AND {asked.discount_11 + 2}
              AND lo_quantity < 25""",
        "1.2": f"""SELECT {DISCOUNT}
            FROM {lineorder} {date}
            WHERE d_yearmonth = '{asked.month_12}' AND lo_discount BETWEEN {asked.discount_12} AND {asked.discount_12 + 2}
              AND lo_quantity BETWEEN 26 AND 35""",
        "1.3": f"""SELECT {DISCOUNT}
            FROM {lineorder} {date}
            WHERE d_weeknuminyear = {asked.week_13} AND d_year = {asked.year_13}
              AND lo_discount BETWEEN {asked.discount_13} AND {asked.discount_13 + 2} AND lo_quantity BETWEEN 26 AND 35""",
        "2.1": f"""SELECT {REVENUE}, d_year, p_brand1
            FROM {lineorder} {date} {part} {supplier}
            WHERE p_category = '{asked.category_21}' AND s_region = '{asked.region_21}'
            GROUP BY d_year, p_brand1 ORDER BY d_year, p_brand1""",
        "2.2": f"""SELECT {REVENUE}, d_year, p_brand1
            FROM {lineorder} {date} {part} {supplier}
            WHERE p_brand1 BETWEEN '{asked.category_22}21' AND '{asked.category_22}28' AND s_region = '{asked.region_22}'
            GROUP BY d_year, p_brand1 ORDER BY d_year, p_brand1""",
        "2.3": f"""SELECT {REVENUE}, d_year, p_brand1
            FROM {lineorder} {date} {part} {supplier}
            WHERE p_brand1 = '{asked.brand_23}' AND s_region = '{asked.region_23}'
            GROUP BY d_year, p_brand1 ORDER BY d_year, p_brand1""",
        "3.1": f"""SELECT c_nation, s_nation, d_year, {REVENUE}
            FROM {lineorder} {customer} {supplier} {date}
            WHERE c_region = '{asked.region_31}' AND s_region = '{asked.region_31}' AND d_year BETWEEN 1992 AND 1997
            GROUP BY c_nation, s_nation, d_year ORDER BY d_year, revenue DESC""",
        "3.2": f"""SELECT c_city, s_city, d_year, {REVENUE}
            FROM {lineorder} {customer} {supplier} {date}
            WHERE c_nation = '{asked.nation_32}' AND s_nation = '{asked.nation_32}' AND d_year BETWEEN 1992 AND 1997
            GROUP BY c_city, s_city, d_year ORDER BY d_year, revenue DESC""",
        "3.3": f"""SELECT c_city, s_city, d_year, {REVENUE}
            FROM {lineorder} {customer} {supplier} {date}
            WHERE c_city IN {cities} AND s_city IN {cities} AND d_year BETWEEN 1992 AND 1997
            GROUP BY c_city, s_city, d_year ORDER BY d_year, revenue DESC""",
        "3.4": f"""SELECT c_city, s_city, d_year, {REVENUE}
            FROM {lineorder} {customer} {supplier} {date}
            WHERE c_city IN {cities} AND s_city IN {cities} AND d_yearmonth = '{asked.month_34}'
            GROUP BY c_city, s_city, d_year ORDER BY d_year, revenue DESC""",
        "4.1": f"""SELECT d_year, c_nation, {PROFIT}
            FROM {lineorder} {date} {customer} {supplier} {part}
            WHERE c_region = '{asked.region_4}' AND s_region = '{asked.region_4}' AND p_mfgr IN {makers}
            GROUP BY d_year, c_nation ORDER BY d_year, c_nation""",
        "4.2": f"""SELECT d_year, s_nation, p_category, {PROFIT}
            FROM {lineorder} {date} {customer} {supplier} {part}
            WHERE c_region = '{asked.region_4}' AND s_region = '{asked.region_4}' AND d_year IN {years}
              AND p_mfgr IN {makers}
            GROUP BY d_year, s_nation, p_category ORDER BY d_year, s_nation, p_category""",
        "4.3": f"""SELECT d_year, s_city, p_brand1, {PROFIT}
            FROM {lineorder} {date} {customer} {supplier} {part}
            WHERE c_region = '{asked.region_4}' AND s_nation = '{asked.nation_43}' AND d_year IN {years}
              AND p_category = '{asked.category_43}'
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
