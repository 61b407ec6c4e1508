//! A TCP proxy whose cable can be cut: nothing passes any more, and nobody is told.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use anyhow::Result;

/// Whether the cable is whole. Who has something to send waits until it is.
#[derive(Clone, Default)]
pub(super) struct Cable(Arc<(Mutex<bool>, Condvar)>);

impl Cable {
    /// Cuts the cable in both directions, or mends it: then all that waited arrives.
    pub(super) fn set_cut(&self, cut: bool) {
        let (is_cut, changed) = &*self.0;
        *is_cut.lock().unwrap_or_else(PoisonError::into_inner) = cut;
        changed.notify_all();
    }

    fn wait_until_whole(&self) {
        let (is_cut, changed) = &*self.0;
        let guard = is_cut.lock().unwrap_or_else(PoisonError::into_inner);
        drop(changed.wait_while(guard, |is_cut| *is_cut));
    }
}

/// Relays every connection to `listener` to `target` over `cable`, until the process ends.
pub(super) fn relay(listener: TcpListener, target: String, cable: Cable) {
    thread::spawn(move || {
        for inbound in listener.incoming().flatten() {
            let (target, cable) = (target.clone(), cable.clone());
            thread::spawn(move || {
                cable.wait_until_whole();
                // If the target refuses, so does the proxy, by closing.
                let _ = join(&inbound, &target, &cable);
            });
        }
    });
}

fn join(inbound: &TcpStream, target: &str, cable: &Cable) -> Result<()> {
    let outbound = TcpStream::connect(target)?;
    inbound.set_nodelay(true)?;
    outbound.set_nodelay(true)?;
    let pairs =
        [(inbound.try_clone()?, outbound.try_clone()?), (outbound.try_clone()?, inbound.try_clone()?)];
    for (from, to) in pairs {
        let cable = cable.clone();
        thread::spawn(move || pump(from, to, &cable));
    }
    Ok(())
}

/// Carries bytes one way until one end closes, and passes the end on.
fn pump(mut from: TcpStream, mut to: TcpStream, cable: &Cable) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        cable.wait_until_whole();
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    cable.wait_until_whole();
    // Either may be closed already, which is what is wanted.
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
