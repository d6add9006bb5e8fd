//! Expressions to netlink and back.

use proptest::prelude::*;

use super::*;

fn through_netlink(expressions: &[Expr], queue_by: QueueBy) -> Vec<Expr> {
    let mut bytes = Vec::new();
    let mut list = Attributes::over(&mut bytes);
    for expression in expressions {
        expression.encode(&mut list, queue_by);
    }
    Expr::decode_list(&bytes).0
}

fn any_expression() -> impl Strategy<Value = Expr> {
    let register = REG32_00..REG32_00 + 16;
    let value = proptest::collection::vec(any::<u8>(), 1..16);
    prop_oneof![
        (0..MetaKey::ALL.len(), register.clone())
            .prop_map(|(key, register)| Expr::Meta { key: MetaKey::ALL[key], register }),
        (register.clone(), any::<bool>(), value.clone()).prop_map(|(register, equal, value)| Expr::Compare {
            register,
            equal,
            value
        }),
        (0..Field::ALL.len(), register.clone())
            .prop_map(|(field, register)| Expr::Payload { field: Field::ALL[field], register }),
        ("[a-z0-9]{1,12}", register.clone()).prop_map(|(set, register)| Expr::Lookup { set, register }),
        (register.clone(), value).prop_map(|(register, value)| Expr::Immediate { register, value }),
        register.prop_map(|register| Expr::SetPriority { register }),
        any::<u16>().prop_map(|number| Expr::Queue { number }),
        any::<bool>().prop_map(|tcp_reset| Expr::Reject { tcp_reset }),
        Just(Expr::Counter),
        Just(Expr::Drop),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read(expressions in proptest::collection::vec(any_expression(), 0..8), native: bool) {
        let queue_by = if native { QueueBy::Native } else { QueueBy::Xtables };
        prop_assert_eq!(through_netlink(&expressions, queue_by), expressions);
    }

    #[test]
    fn junk_is_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Expr::decode_list(&bytes);
    }
}

/// `struct xt_NFQ_info_v3` of linux/netfilter/xt_NFQUEUE.h: number, queues, flags, and its alignment.
#[test]
fn the_xtables_target_has_the_layout_of_its_header() {
    let mut bytes = Vec::new();
    Expr::Queue { number: 7 }.encode(&mut Attributes::over(&mut bytes), QueueBy::Xtables);
    let data = attribute(attribute(&bytes, LIST_ELEM).unwrap(), EXPR_DATA).unwrap();
    assert_eq!(text(data, 1).as_deref(), Some("NFQUEUE"));
    assert_eq!(be32(data, 2), Some(3));
    assert_eq!(attribute(data, 3), Some([7, 0, 1, 0, 1, 0, 0, 0].as_slice()));
}

#[test]
fn another_verdict_is_not_a_drop() {
    let mut bytes = Vec::new();
    let mut list = Attributes::over(&mut bytes);
    list.nest(LIST_ELEM, |element| {
        element.put_str(EXPR_NAME, "immediate");
        element.nest(EXPR_DATA, |data| {
            data.put_be32(1, REG_VERDICT);
            data.nest(2, |nested| {
                nested.nest(DATA_VERDICT, |verdict| verdict.put_be32(VERDICT_CODE, 1));
            });
        });
    });
    assert_eq!(Expr::decode_list(&bytes).0, [Expr::Unknown { name: "immediate".to_owned() }]);
}
