//! Tests in a project, which `starmere check` runs: those that hold, and what is said of those that do not.

use crate::support::project::Project;

const RIGHT: &str = r#"
test: An order has the customer as of its time
given:
  - orders:
      - { type: order_placed, id: o1, at: "2024-02-01T00:00:00Z", order: A, customer: c1, lines: [{ quantity: 2 }, { quantity: 3 }] }
  - customers:
      - { type: customer_moved, id: m1, at: "2024-01-01T00:00:00Z", customer: c1, city: Ulm }
      - { type: customer_moved, id: m2, at: "2024-03-01T00:00:00Z", customer: c1, city: Bern }
expect:
  order_lines:
    - { order_id: A, line_number: 1, quantity: 2, customer: { city: Ulm } }
    - { order_id: A, line_number: 2, quantity: 3, customer: { city: Ulm, customer_id: c1 } }
  customer:
    - { city: Bern, is_current: true }
    - { city: Ulm, is_current: false }
"#;

const REJECTS: &str = r#"
test: What cannot be read is rejected, and said why
given:
  - orders:
      - { type: order_placed, id: o1, at: "2024-02-01T00:00:00Z", order: A, customer: c1, lines: [{ quantity: 2 }] }
      - { type: order_placed, id: o2, at: "2024-02-01T00:00:00Z", order: B, customer: c1, lines: [{ quantity: two }] }
      - "no event"
rejects:
  order_lines:
    - { event_id: o2, event_type: order_placed }
  orders:
    - { event_type: null, position: 2 }
  customer: []
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_projects_tests_are_run_by_check() {
    let project = Project::new();
    let folder = project.root().join("domains/sales/tests");
    std::fs::create_dir_all(&folder).unwrap();
    let streams = std::fs::read_to_string(project.root().join("streams/orders.yaml")).unwrap();
    assert!(streams.contains("order_placed"), "{streams}");
    std::fs::write(folder.join("right.yaml"), RIGHT).unwrap();
    std::fs::write(folder.join("rejects.yaml"), REJECTS).unwrap();
    let run = project.run(&["check"]).await;
    assert!(run.status.success() && run.errors.contains("2 tests hold"), "{}", run.errors);
    for (right, wrong, words) in [
        ("event_id: o2, ", "event_id: o3, ", "rejects of order_lines: `event_id` is o2, not o3"),
        (
            "\n    - { event_id: o2, event_type: order_placed }",
            " []",
            "rejects of order_lines: there is another row: event_id: o2, reason: `quantity` of element 1",
        ),
        ("{ event_id: o2, ", "{ event: o2, ", "rejects have no `event`"),
        ("  customer: []", "  custmer: []", "no fact, dimension or stream `custmer` reads events"),
        ("rejects:", "expect:", "there is no model `sales.orders`"),
        ("rejects:", "expect: { order_lines: [] }\nrejects:", "there is another row: order_id: A, line_number: 1"),
        (&REJECTS[REJECTS.find("rejects:").unwrap()..], "", "the test expects nothing"),
    ] {
        assert!(REJECTS.contains(right), "{right}");
        std::fs::write(folder.join("rejects.yaml"), REJECTS.replacen(right, wrong, 1)).unwrap();
        let run = project.run(&["check"]).await;
        assert_eq!(run.status.code(), Some(1), "{wrong}: {}", run.errors);
        assert!(run.errors.contains(words), "{wrong}\n{words}\n{}", run.errors);
    }
    // What a model rejected may be why it has other rows than expected.
    let rows = "expect:\n  order_lines: [{ quantity: 7 }]\n";
    let begin = REJECTS.find("rejects:").unwrap();
    std::fs::write(folder.join("rejects.yaml"), REJECTS[..begin].to_owned() + rows).unwrap();
    let run = project.run(&["check"]).await;
    assert!(run.errors.contains("hint: event `o2` was rejected: `quantity` of element 1"), "{}", run.errors);
    std::fs::remove_file(folder.join("rejects.yaml")).unwrap();
    for (right, wrong, words) in [
        (
            "quantity: 2, customer: { city: Ulm }",
            "quantity: 2, customer: { city: Bern }",
            "wrong.yaml:11:7: `An order has the customer as of its time`: order_lines: `customer.city` is Ulm, not Bern",
        ),
        (
            "quantity: 2, customer: { city: Ulm }",
            "quantity: 2, customer: c1",
            "`customer` is the role of a dimension, whose row is expected",
        ),
        (
            "    - { city: Bern, is_current: true }\n",
            "",
            "customer: there is another row: city: Bern, is_current: true",
        ),
        ("city: Bern, is_current: true }", "city: Rome, is_current: true }", "`city` is Bern, not Rome"),
        ("order_id: A, line_number: 1", "ordr_id: A, line_number: 1", "`sales.order_lines` has no column `ordr_id`"),
        ("quantity: 2, customer", "quantity: two, customer", "`quantity`: `two` is not of type int"),
        ("  order_lines:", "  orderlines:", "there is no model `sales.orderlines`"),
        ("  - orders:", "  - order:", "there is no stream `order`"),
        ("customer: { city: Ulm }", "customer: { town: Ulm }", "`sales.customer` has no column `town`"),
        ("test: An", "tset: An", "wrong.yaml:2:1: unknown key `tset`"),
    ] {
        assert!(RIGHT.contains(right), "{right}");
        std::fs::write(folder.join("wrong.yaml"), RIGHT.replacen(right, wrong, 1)).unwrap();
        let run = project.run(&["check"]).await;
        assert_eq!(run.status.code(), Some(1), "{wrong}: {}", run.errors);
        assert!(run.errors.contains(words), "{wrong}\n{words}\n{}", run.errors);
    }
}
