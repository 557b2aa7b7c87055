//! Writes without end, and prints each acknowledged write as `key value`: what the crash tests kill.
//!
//! `writer <data directory> <clients>`. It ends with the first error, which it prints.

use std::io::Write;

use kubelite_store::{Options, PutRequest, Store};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().ok_or_else(|| anyhow::anyhow!("usage: writer <data directory> <clients>"))?;
    let clients: usize = arguments.next().unwrap_or_else(|| "1".to_owned()).parse()?;
    let store = Store::open(dir, Options { snapshot_after: 64 * 1024 })?;
    let start = store.revision();
    let writers: Vec<_> =
        (0..clients).map(|client| tokio::spawn(write(store.clone(), client, start))).collect();
    for writer in writers {
        writer.await??;
    }
    Ok(())
}

/// One client: puts its own key with rising numbers, that go on where an earlier process was killed.
async fn write(store: Store, client: usize, start: i64) -> anyhow::Result<()> {
    let key = format!("client{client:03}");
    for number in start.. {
        let value = format!("{number:010}");
        let put =
            PutRequest { key: key.clone().into(), value: value.clone().into(), ..PutRequest::default() };
        store.put(put).await?;
        writeln!(std::io::stdout().lock(), "{key} {value}")?;
    }
    Ok(())
}
