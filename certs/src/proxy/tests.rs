//! Settings as people write them; the tunnel itself is in `tests/tls/proxies.rs`.

use super::*;

#[test]
fn urls_as_people_write_them() {
    for (url, address) in [
        ("http://proxy.corp:8080", "proxy.corp:8080"),
        ("http://proxy.corp:8080/", "proxy.corp:8080"),
        ("proxy.corp", "proxy.corp:3128"),
        (" http://u:p%40ss@10.0.0.1:1 ", "10.0.0.1:1"),
        ("http://[fd00::1]:3128", "[fd00::1]:3128"),
    ] {
        assert_eq!(Proxy::new(url, "").unwrap().address(), address, "{url}");
    }
    for url in ["", "http://", "http://:80", "http://a b", "http://u:%zz@h", "http://h:99999", "http://h:"] {
        assert_eq!(Proxy::new(url, "").unwrap_err(), SettingError::Url, "{url}");
    }
    assert_eq!(Proxy::new("socks5://h:1", "").unwrap_err(), SettingError::Scheme("socks5".to_owned()));
}

#[test]
fn credentials_are_decoded_and_never_shown() {
    let proxy = Proxy::new("http://us%3Aer:pa%20ss@h:1", "").unwrap();
    assert_eq!(proxy.authorization.as_deref(), Some(&*format!("Basic {}", BASE64.encode(b"us:er:pa ss"))));
    assert!(!format!("{proxy:?}").contains("Basic"), "{proxy:?}");
    let error = Proxy::new("ftp://me:hunter2@h", "").unwrap_err();
    assert!(!error.to_string().contains("hunter2"), "{error}");
}

#[test]
fn exceptions_as_other_programs_read_them() {
    let list = "internal.corp, .example.com,*.svc,10.0.0.0/8,192.168.1.7,hub.corp:7443,fd00::/8";
    let proxy = Proxy::new("http://p:1", list).unwrap();
    for (host, port, through) in [
        ("internal.corp", 443, false),
        ("a.internal.corp", 443, false),
        ("notinternal.corp", 443, true),
        ("Example.COM", 443, false),
        ("a.example.com.", 443, false),
        ("x.svc", 443, false),
        ("10.200.3.4", 443, false),
        ("11.0.0.1", 443, true),
        ("192.168.1.7", 443, false),
        ("192.168.1.8", 443, true),
        ("hub.corp", 7443, false),
        ("hub.corp", 7444, true),
        ("[fd12::1]", 443, false),
        ("fe80::1", 443, true),
        ("localhost", 443, false),
        ("127.8.0.1", 443, false),
        ("::1", 443, false),
        ("hub.elsewhere", 443, true),
    ] {
        assert_eq!(proxy.is_for(host, port), through, "{host}:{port}");
    }
    assert!(!Proxy::new("http://p:1", "*").unwrap().is_for("anything", 1));
    for bad in ["10.0.0.0/33", "a/8", "a b", "h:port"] {
        assert_eq!(Proxy::new("http://p:1", bad).unwrap_err(), SettingError::Exception(bad.to_owned()));
    }
}

#[test]
fn either_case_of_the_environment() {
    let env = |pairs: &'static [(&str, &str)]| {
        move |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    };
    assert_eq!(Proxy::from_env(env(&[])).unwrap(), None);
    assert_eq!(Proxy::from_env(env(&[("HTTPS_PROXY", ""), ("NO_PROXY", "a")])).unwrap(), None);
    let proxy = Proxy::from_env(env(&[("https_proxy", "http://p:1"), ("no_proxy", "hub")])).unwrap().unwrap();
    assert!(!proxy.is_for("hub", 1) && proxy.is_for("other", 1));
}
