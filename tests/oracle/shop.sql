-- The right answers of the example `shop`, by DuckDB over the raw lines.
--
-- Given: lines(stream, source, topic, position, text, strict), one row per line of the files (and of what was
-- posted): `position` is the line's byte offset in `topic`, `text` is null where the bytes are not UTF-8,
-- `strict` says whether it is JSON by RFC 8259 (DuckDB's own parser takes NaN and trailing commas).
-- Makes: one table or view per file of `expected/`, with all columns as text.

SET TimeZone = 'UTC';

-- Types -----------------------------------------------------------------------------------------------------

CREATE MACRO fits_int(t) AS t IS NULL OR (regexp_full_match(t, '-?\d+') AND TRY_CAST(t AS INTEGER) IS NOT NULL);
CREATE MACRO fits_cents(t) AS t IS NULL OR regexp_full_match(t, '-?\d{1,16}(\.\d{1,2}0*)?');
CREATE MACRO fits_date(t) AS
    t IS NULL OR (regexp_full_match(t, '\d{4}-\d\d-\d\d') AND TRY_CAST(t AS DATE) IS NOT NULL);
CREATE MACRO instant(t) AS strftime(t, '%Y-%m-%dT%H:%M:%S.%fZ');
CREATE MACRO has(payload, path) AS coalesce(json_exists(payload, path), false);

-- Landing ---------------------------------------------------------------------------------------------------

CREATE TABLE landed AS
WITH parsed AS (
    SELECT stream, source, topic, position, CASE WHEN strict THEN text::JSON END AS payload FROM lines
), enveloped AS (
    SELECT *,
        payload ->> '$.event_id' AS event_id,
        payload ->> '$.type' AS event_type,
        coalesce(CAST(payload ->> '$.version' AS INTEGER), 1) AS event_version,
        CASE WHEN regexp_full_match(payload ->> '$.occurred_at',
                '\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)')
            THEN make_timestamp(epoch_us(TRY_CAST(payload ->> '$.occurred_at' AS TIMESTAMPTZ))) END AS occurred_at
    FROM parsed
)
SELECT *, payload IS NULL OR event_type IS NULL OR occurred_at IS NULL AS rejected FROM enveloped;

-- Each event once: the least copy. `seq` numbers them in the order of events.
CREATE TABLE events AS
SELECT *, row_number() OVER (PARTITION BY stream ORDER BY occurred_at, source, topic, position) AS seq
FROM (
    FROM landed WHERE NOT rejected
    QUALIFY row_number() OVER (
        PARTITION BY stream, event_id, CASE WHEN event_id IS NULL THEN (source, topic, position) END
        ORDER BY occurred_at, source, topic, position
    ) = 1
);

-- Dimensions ------------------------------------------------------------------------------------------------
-- All of them in one long form: changes (one row per event of a member) and settings (one row per attribute
-- that an event sets, to null perhaps).

CREATE TABLE attributes (dimension TEXT, attribute TEXT, history TEXT);
INSERT INTO attributes VALUES
    ('customer', 'name', 'overwrite'), ('customer', 'city', 'version'), ('customer', 'segment', 'version'),
    ('customer', 'first_channel', 'keep'), ('customer', 'signed_up_on', 'overwrite'),
    ('product', 'name', 'overwrite'), ('product', 'price', 'version'), ('product', 'category_id', 'version'),
    ('category', 'name', 'overwrite'), ('category', 'department_id', 'version'),
    ('department', 'name', 'overwrite');

CREATE TABLE kinds (event_type TEXT, dimension TEXT, kind TEXT);
INSERT INTO kinds VALUES
    ('customer_registered', 'customer', 'state'), ('customer_changed', 'customer', 'patch'),
    ('customer_deleted', 'customer', 'delete'),
    ('product_listed', 'product', 'state'), ('product_changed', 'product', 'patch'),
    ('product_delisted', 'product', 'delete'),
    ('category_changed', 'category', 'state'), ('department_changed', 'department', 'state');

-- Where each version of an event keeps the member's key and its attributes. (Paths are spelled out below:
-- DuckDB wants them constant.)
CREATE TABLE mentions_of_attributes AS
WITH e AS (SELECT * FROM events JOIN kinds USING (event_type) WHERE stream IN ('customers', 'products'))
SELECT dimension, kind, seq, occurred_at, payload ->> '$.customer.id' AS member, [
    {'attribute': 'name', 'set': has(payload, '$.customer.full_name'), 'value': payload ->> '$.customer.full_name'},
    {'attribute': 'city', 'set': has(payload, '$.customer.city'), 'value': payload ->> '$.customer.city'},
    {'attribute': 'segment', 'set': has(payload, '$.customer.segment'), 'value': payload ->> '$.customer.segment'},
    {'attribute': 'first_channel', 'set': has(payload, '$.customer.channel'), 'value': payload ->> '$.customer.channel'},
    {'attribute': 'signed_up_on', 'set': has(payload, '$.customer.signed_up_on'),
     'value': payload ->> '$.customer.signed_up_on'}] AS fields
FROM e WHERE dimension = 'customer'
UNION ALL
SELECT dimension, kind, seq, occurred_at, payload ->> '$.item.sku', [
    {'attribute': 'name', 'set': has(payload, '$.item.title'), 'value': payload ->> '$.item.title'},
    {'attribute': 'price', 'set': has(payload, '$.item.price'), 'value': replace(payload ->> '$.item.price', ',', '.')},
    {'attribute': 'category_id', 'set': has(payload, '$.item.category'), 'value': payload ->> '$.item.category'}]
FROM e WHERE dimension = 'product' AND event_version = 1
UNION ALL
SELECT dimension, kind, seq, occurred_at, payload ->> '$.product.id', [
    {'attribute': 'name', 'set': has(payload, '$.product.name'), 'value': payload ->> '$.product.name'},
    {'attribute': 'price', 'set': has(payload, '$.product.price'), 'value': payload ->> '$.product.price'},
    {'attribute': 'category_id', 'set': has(payload, '$.product.category_id'),
     'value': payload ->> '$.product.category_id'}]
FROM e WHERE dimension = 'product' AND event_version = 2
UNION ALL
SELECT dimension, kind, seq, occurred_at, payload ->> '$.category.id', [
    {'attribute': 'name', 'set': has(payload, '$.category.name'), 'value': payload ->> '$.category.name'},
    {'attribute': 'department_id', 'set': has(payload, '$.category.department_id'),
     'value': payload ->> '$.category.department_id'}]
FROM e WHERE dimension = 'category'
UNION ALL
SELECT dimension, kind, seq, occurred_at, payload ->> '$.department.id', [
    {'attribute': 'name', 'set': has(payload, '$.department.name'), 'value': payload ->> '$.department.name'}]
FROM e WHERE dimension = 'department';

CREATE TABLE fields AS
SELECT * EXCLUDE (field, fields), field.attribute, field.set AS is_set, field.value,
    CASE field.attribute
        WHEN 'price' THEN fits_cents(field.value)
        WHEN 'signed_up_on' THEN fits_date(field.value)
        ELSE true
    END OR kind = 'delete' AS fits
FROM (SELECT *, unnest(fields) AS field FROM mentions_of_attributes);

CREATE TABLE changes_or_rejects AS
SELECT dimension, kind, seq, occurred_at, member, member IS NOT NULL AND bool_and(fits) AS accepted
FROM fields GROUP BY dimension, kind, seq, occurred_at, member;

-- A delete of what is deleted changes nothing. A lifetime ends with its delete.
CREATE TABLE changes AS
WITH effective AS (
    SELECT * FROM changes_or_rejects WHERE accepted
    WINDOW member_events AS (PARTITION BY dimension, member ORDER BY seq)
    QUALIFY kind <> 'delete' OR lag(kind) OVER member_events IS DISTINCT FROM 'delete'
)
SELECT *, coalesce(sum((kind = 'delete')::INT) OVER (
    PARTITION BY dimension, member ORDER BY seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS lifetime
FROM effective;

-- What every attribute is after every change: what was set last in this lifetime. A state sets all.
CREATE TABLE cells AS
SELECT c.dimension, c.member, c.seq, c.lifetime, c.occurred_at, c.kind = 'delete' AS is_deleted, f.attribute, a.history,
    last_value(CASE
        WHEN c.kind = 'state' OR (c.kind = 'patch' AND f.is_set)
        THEN {'value': CASE WHEN f.attribute = 'price' THEN CAST(TRY_CAST(f.value AS DECIMAL(18, 2)) AS TEXT) ELSE f.value END}
    END IGNORE NULLS) OVER (
        PARTITION BY c.dimension, c.member, c.lifetime, f.attribute ORDER BY c.seq
        ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
    ).value AS value
FROM changes c
JOIN fields f ON f.dimension = c.dimension AND f.member = c.member AND f.seq = c.seq
JOIN attributes a ON a.dimension = f.dimension AND a.attribute = f.attribute;

CREATE TABLE versions AS
WITH states AS (
    SELECT dimension, member, seq, lifetime, occurred_at, is_deleted,
        list(coalesce('=' || value, 'null') ORDER BY attribute) FILTER (history = 'version') AS versioned
    FROM cells GROUP BY ALL
), instants AS (
    FROM states QUALIFY row_number() OVER (PARTITION BY dimension, member, occurred_at ORDER BY seq DESC) = 1
), opened AS (
    FROM instants
    WINDOW ordered AS (PARTITION BY dimension, member ORDER BY seq)
    QUALIFY lag(seq) OVER ordered IS NULL
        OR (versioned, is_deleted) IS DISTINCT FROM (lag(versioned) OVER ordered, lag(is_deleted) OVER ordered)
)
SELECT dimension, member, seq, lifetime, is_deleted,
    CASE WHEN lag(seq) OVER ordered IS NULL THEN TIMESTAMP '0001-01-01' ELSE occurred_at END AS valid_from,
    coalesce(lead(occurred_at) OVER ordered, TIMESTAMP '9999-12-31') AS valid_to,
    lead(seq) OVER ordered IS NULL AS is_current
FROM opened
WINDOW ordered AS (PARTITION BY dimension, member ORDER BY seq);

-- What a version shows.
CREATE TABLE shown AS
WITH lifetimes AS (
    SELECT dimension, member, lifetime, attribute, last(value ORDER BY seq) AS latest, arg_min(value, seq) AS first
    FROM cells GROUP BY ALL
)
SELECT v.dimension, v.member, v.seq, c.attribute,
    CASE c.history WHEN 'version' THEN c.value WHEN 'overwrite' THEN l.latest WHEN 'keep' THEN l.first END AS value
FROM versions v
JOIN cells c ON c.dimension = v.dimension AND c.member = v.member AND c.seq = v.seq
JOIN lifetimes l
    ON l.dimension = v.dimension AND l.member = v.member AND l.lifetime = v.lifetime AND l.attribute = c.attribute;

-- Facts -----------------------------------------------------------------------------------------------------

CREATE TABLE placed AS
SELECT seq, occurred_at, event_version,
    payload ->> '$.order.id' AS order_id,
    CASE event_version WHEN 1 THEN payload ->> '$.order.client' ELSE payload ->> '$.order.customer_id' END AS customer_id,
    CASE event_version
        WHEN 1 THEN regexp_replace(payload ->> '$.order.promised', '^(..)\.(..)\.(....)$', '\3-\2-\1')
        ELSE payload ->> '$.order.promised_on'
    END AS promised_on,
    CASE event_version WHEN 2 THEN payload ->> '$.order.shipping_fee' END AS shipping_fee,
    CASE json_type(payload, '$.order.lines') WHEN 'ARRAY' THEN json_extract(payload, '$.order.lines[*]') ELSE [] END AS lines
FROM events WHERE stream = 'orders' AND event_type = 'order_placed';

CREATE TABLE placed_lines AS
SELECT seq, ordinal,
    CASE event_version WHEN 1 THEN line ->> '$.sku' ELSE line ->> '$.product_id' END AS product_id,
    CASE event_version WHEN 1 THEN line ->> '$.qty' ELSE line ->> '$.quantity' END AS quantity,
    CASE event_version WHEN 1 THEN line ->> '$.price' ELSE line ->> '$.unit_price' END AS unit_price,
    CASE event_version WHEN 2 THEN line ->> '$.discount' END AS discount
FROM (SELECT seq, event_version, unnest(lines) AS line, generate_subscripts(lines, 1) AS ordinal FROM placed);

-- Which models take which event, as a whole or not at all.
CREATE TABLE accepted AS
SELECT p.seq,
    order_id IS NOT NULL AND fits_date(promised_on) AS header,
    header AND fits_cents(shipping_fee) AS orders,
    header AND coalesce(bool_and(fits_int(quantity) AND fits_cents(unit_price)), true) AS order_lines,
    order_lines AND coalesce(bool_and(fits_cents(discount)), true) AS priced_lines
FROM placed p LEFT JOIN placed_lines l USING (seq)
GROUP BY p.seq, order_id, promised_on, shipping_fee;

-- TRY_CAST, because a filter may run after what it guards.
CREATE TABLE order_lines AS
SELECT seq, ordinal, occurred_at, customer_id, product_id, TRY_CAST(quantity AS INTEGER) AS quantity,
    CAST(TRY_CAST(quantity AS INTEGER) * TRY_CAST(unit_price AS DECIMAL(18, 2)) AS DECIMAL(18, 2)) AS amount
FROM placed_lines JOIN placed USING (seq)
WHERE seq IN (SELECT seq FROM accepted WHERE order_lines) AND TRY_CAST(quantity AS INTEGER) > 0;

CREATE TABLE priced_lines AS FROM placed_lines WHERE seq IN (SELECT seq FROM accepted WHERE priced_lines);

CREATE TABLE orders AS FROM placed WHERE seq IN (SELECT seq FROM accepted WHERE orders);

-- Who is only spoken of -------------------------------------------------------------------------------------

CREATE TABLE inferred AS
WITH mentions AS (
    SELECT 'customer' AS dimension, customer_id AS member FROM orders
    UNION SELECT 'customer', customer_id FROM order_lines
    UNION SELECT 'category', value FROM fields SEMI JOIN changes USING (dimension, member, seq)
        WHERE dimension = 'product' AND kind <> 'delete' AND attribute = 'category_id'
    UNION SELECT 'department', value FROM fields SEMI JOIN changes USING (dimension, member, seq)
        WHERE dimension = 'category' AND attribute = 'department_id'
)
FROM mentions ANTI JOIN changes USING (dimension, member) WHERE member IS NOT NULL;

-- Answers ---------------------------------------------------------------------------------------------------

CREATE TABLE wide AS
SELECT v.dimension, v.member, v.valid_from, v.valid_to, v.is_current, v.is_deleted, false AS is_inferred,
    max(value) FILTER (attribute = 'name') AS name,
    max(value) FILTER (attribute = 'city') AS city,
    max(value) FILTER (attribute = 'segment') AS segment,
    max(value) FILTER (attribute = 'first_channel') AS first_channel,
    max(value) FILTER (attribute = 'signed_up_on') AS signed_up_on,
    max(value) FILTER (attribute = 'price') AS price,
    max(value) FILTER (attribute = 'category_id') AS category_id,
    max(value) FILTER (attribute = 'department_id') AS department_id
FROM versions v JOIN shown s USING (dimension, member, seq)
GROUP BY v.dimension, v.member, v.seq, v.valid_from, v.valid_to, v.is_current, v.is_deleted
UNION ALL BY NAME
SELECT dimension, member, TIMESTAMP '0001-01-01' AS valid_from, TIMESTAMP '9999-12-31' AS valid_to,
    true AS is_current, false AS is_deleted, true AS is_inferred
FROM inferred;

CREATE VIEW customer_versions AS
SELECT member AS customer_id, name, city, segment, first_channel, signed_up_on, instant(valid_from) AS valid_from,
    instant(valid_to) AS valid_to, is_deleted, is_inferred
FROM wide WHERE dimension = 'customer';

CREATE VIEW product_versions AS
SELECT member AS product_id, name, price, category_id, instant(valid_from) AS valid_from, instant(valid_to) AS valid_to,
    is_deleted, is_inferred
FROM wide WHERE dimension = 'product';

CREATE VIEW category_versions AS
SELECT member AS category_id, name, department_id, instant(valid_from) AS valid_from, instant(valid_to) AS valid_to,
    is_deleted, is_inferred
FROM wide WHERE dimension = 'category';

CREATE VIEW revenue_by_segment_month AS
SELECT c.segment, strftime(l.occurred_at, '%Y-%m') AS year_month, count(*) AS lines, sum(l.quantity) AS quantity,
    sum(l.amount) AS revenue
FROM order_lines l
ASOF LEFT JOIN (FROM wide WHERE dimension = 'customer') c
    ON l.customer_id = c.member AND l.occurred_at >= c.valid_from
GROUP BY ALL ORDER BY c.segment NULLS FIRST, year_month;

CREATE VIEW revenue_by_department AS
SELECT d.name AS department, count(*) AS lines, sum(l.quantity) AS quantity, sum(l.amount) AS revenue
FROM order_lines l
ASOF LEFT JOIN (FROM wide WHERE dimension = 'product') p
    ON l.product_id = p.member AND l.occurred_at >= p.valid_from
LEFT JOIN wide c ON c.dimension = 'category' AND c.member = p.category_id AND c.is_current
LEFT JOIN wide d ON d.dimension = 'department' AND d.member = c.department_id AND d.is_current
GROUP BY ALL ORDER BY department NULLS FIRST;

CREATE VIEW counts AS
SELECT 'landed' AS kind, stream AS name, count(*) AS count FROM landed GROUP BY ALL
UNION ALL SELECT 'landing_rejects', stream, count(*) FROM landed WHERE rejected GROUP BY ALL
UNION ALL SELECT 'model_rejects', 'customers.customer', count(*) FROM changes_or_rejects
    WHERE dimension = 'customer' AND NOT accepted
UNION ALL SELECT 'model_rejects', 'catalog.product', count(*) FROM changes_or_rejects
    WHERE dimension = 'product' AND NOT accepted
UNION ALL SELECT 'model_rejects', 'sales.order_lines', count(*) FROM accepted WHERE NOT order_lines
UNION ALL SELECT 'model_rejects', 'sales.orders', count(*) FROM accepted WHERE NOT orders
UNION ALL SELECT 'model_rejects', 'sales.priced_lines', count(*) FROM accepted WHERE NOT priced_lines
UNION ALL SELECT 'rows', if(dimension = 'customer', 'customers.', 'catalog.') || dimension, count(*) + 1
    FROM wide GROUP BY dimension
UNION ALL SELECT 'rows', 'sales.date', count(*) + 1 FROM range(DATE '2020-01-01', DATE '2031-01-01', INTERVAL 1 DAY)
UNION ALL SELECT 'rows', 'sales.order_lines', count(*) FROM order_lines
UNION ALL SELECT 'rows', 'sales.orders', count(*) FROM orders
UNION ALL SELECT 'rows', 'sales.priced_lines', count(*) FROM priced_lines
ORDER BY kind, name;
