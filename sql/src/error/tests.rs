use super::*;

#[test]
fn every_kind_has_its_own_codes() {
    let mut seen = std::collections::HashSet::new();
    for kind in ErrorKind::ALL {
        let (code, status) = kind.codes();
        assert!(seen.insert((code as i32, status.as_u16())), "{kind:?} shares its codes");
        assert_ne!(code, Code::Ok);
        assert!(status.as_u16() >= 400);
    }
    assert_eq!(ErrorKind::Cancelled.codes().1.as_u16(), 499);
}

#[test]
fn place_is_taken_out_of_the_parsers_text() {
    let error = ParserError::ParserError("Expected: x, found: y at Line: 3, Column: 18".to_owned());
    let error = QueryError::from(DataFusionError::SQL(Box::new(error), None));
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(error.to_string(), "Expected: x, found: y");
    assert_eq!((error.line, error.column), (Some(3), Some(18)));
}

#[test]
fn text_without_a_place_stays_as_it_is() {
    assert_eq!(split_place("no place here"), None);
    assert_eq!(split_place("x at Line: one, Column: 2"), None);
}

#[test]
fn missing_table_is_not_found() {
    let cases = [("sales.a.b", "sales.a.b"), ("datafusion.a.b", "a.b"), ("datafusion.public.b", "b")];
    for (engine, written) in cases {
        let error = QueryError::from(DataFusionError::Plan(format!("table '{engine}' not found")));
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.to_string(), format!("there is no table `{written}`"));
        assert!(error.hint().is_some());
    }
}

#[test]
fn our_own_error_survives_the_engine() {
    let ours = QueryError::denied("`sales.orders_v1.order_lines` is private").with_hint("ask sales");
    let wrapped = ArrowError::ExternalError(Box::new(DataFusionError::External(Box::new(ours))));
    let back = QueryError::from(DataFusionError::from(wrapped).context("while reading"));
    assert_eq!(back.kind(), ErrorKind::Denied);
    assert_eq!(back.hint(), Some("ask sales"));
}

#[test]
fn exhausted_memory_asks_to_wait() {
    let error = DataFusionError::ResourcesExhausted("too much".to_owned()).context("sorting");
    assert_eq!(QueryError::from(error).kind(), ErrorKind::Unavailable);
}

#[test]
fn status_carries_causes_place_and_hint() {
    let cause = std::io::Error::other("disk is gone");
    let error =
        QueryError::internal("could not open snapshot 7").caused_by(cause).at(2, 5).with_hint("look at the disk");
    let status = Status::from(error);
    assert_eq!(status.code(), Code::Internal);
    assert_eq!(
        status.message(),
        "could not open snapshot 7: disk is gone (line 2, column 5)\n\nhint: look at the disk"
    );
}

#[test]
fn damage_of_a_stored_file_is_told_with_the_way_out() {
    let damage = starmere_lake::Error::Corrupt { path: "models/sales/x/y".into(), reason: "it is cut".into() };
    let error = QueryError::from(DataFusionError::External(Box::new(damage)).context("while scanning"));
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert_eq!(error.to_string(), "`models/sales/x/y` is damaged: it is cut");
    assert!(error.hint().unwrap().contains("starmere build --full"));
    let source = object_store::Error::Generic { store: "s3", source: "no answer".into() };
    let away = starmere_lake::Error::Store { action: "read", path: "lake/x".into(), source };
    let error = QueryError::from(DataFusionError::External(Box::new(away)));
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().starts_with("could not read `lake/x`: "), "{error}");
}

#[test]
fn clients_are_not_shown_where_data_lies() {
    hide_paths(["/srv/hidden/warehouse/".to_owned(), "/srv/hidden".to_owned(), "/".to_owned(), String::new()]);
    let cause = std::io::Error::other("no such file: /srv/hidden/warehouse/lake/a.parquet, srv/hidden/b");
    let error = QueryError::internal("could not read `/srv/hidden/x/y`").caused_by(cause);
    assert_eq!(error.shown(), "could not read `…/x/y`: no such file: …/lake/a.parquet, …/b");
    assert!(error.text().contains("/srv/hidden/warehouse/lake/a.parquet"), "the log has it");
    let status = Status::from(error);
    assert!(!status.message().contains("hidden"), "{status}");
    assert_eq!(QueryError::invalid("a / b").shown(), "a / b");
}
