import pytest

from jopd.teachers import secrecy


@pytest.mark.parametrize(
    "text, want",
    [
        ("http://me:pw@host/v1 fails", "http://***@host/v1 fails"),
        ("'https://me:p@w@host'", "'https://***@host'"),
        ("http://me:p/w@host", "http://***@host"),
        ("http://host/v1?api_key=abc&x=1", "http://host/v1?api_key=***&x=1"),
        ("http://host/v1?x=1&access_token=abc", "http://host/v1?x=1&access_token=***"),
        ("http://host:80/v1", "http://host:80/v1"),
        ("me@host", "me@host"),
        ("the key sk-1 is wrong", "the key *** is wrong"),
    ],
)
def test_hidden(text, want):
    assert secrecy.hidden(text, "sk-1", "") == want


def test_hidden_within_a_config():
    config = {"url": "http://a:b@c", "body": {"api_key": "x", "max_tokens": 3}}
    config |= {"key_env": "KEY", "many": ["http://a:b@c", 1, None], "empty": {}}
    assert secrecy.hidden_within(config) == {
        "url": "http://***@c",
        "body": {"api_key": "***", "max_tokens": 3},
        "key_env": "KEY",
        "many": ["http://***@c", 1, None],
        "empty": {},
    }


@pytest.mark.parametrize(
    "key, secret",
    [
        *(
            (key, True)
            for key in ("token", "key", "Key", "bearer", "api-key", "passwd")
        ),
        *((key, True) for key in ("remote.body.token", "x.access_key", "api_token")),
        *((key, True) for key in ("client_secret", "credential", "X-API-Key")),
        *((key, False) for key in ("eos_token", "key_env", "tokens", "monkey", "keys")),
    ],
)
def test_fields_that_are_secrets(key, secret):
    want = "***" if secret else "x"
    assert secrecy.hidden_within({key: "x"}) == {key: want}
    assert secrecy.hidden_within({key: 3}) == {key: 3}


def test_logins():
    split = secrecy.without_login
    assert split("http://me:p%2Fw@host:8/v1") == ("http://host:8/v1", ("me", "p/w"))
    assert split("http://me@host/v1") == ("http://host/v1", ("me", ""))
    for url in ("http://host:8/v1/@x", "localhost:8000", ""):
        assert split(url) == (url, None)
    with pytest.raises(ValueError, match="%2F for /") as caught:
        split("http://me:p/w@host")
    assert "p/w" not in str(caught.value) and caught.value.__suppress_context__
