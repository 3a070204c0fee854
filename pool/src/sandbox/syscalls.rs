//! System calls that lead past Landlock, which has rules for files, TCP, signals and abstract sockets only: other
//! sockets (TCP by way of MPTCP among them), memory and messages that all processes of an account share, and what one
//! of them can do to another by its number.

use std::io;

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Refused whatever the arguments.
const NEVER: [i64; 19] = [
    // Its operations are not system calls: sockets can be made that no filter sees.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_semctl,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
    // Keyrings belong to the account.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
];

/// Refused where this argument is not 0, which is the caller itself.
const OTHERS: [(i64, u8); 5] = [
    (libc::SYS_prlimit64, 0),
    (libc::SYS_sched_setattr, 0),
    (libc::SYS_sched_setparam, 0),
    (libc::SYS_sched_setscheduler, 0),
    (libc::SYS_sched_setaffinity, 0),
];

/// `linux/ioprio.h`.
const IOPRIO_WHO_USER: u64 = 3;

/// The bits of a socket's type that are no flags.
const TYPE: u64 = 0xf;

/// On x86 the same calls have a second set of numbers (x32), on kernels that have it.
const X32: i64 = if cfg!(target_arch = "x86_64") { 0x4000_0000 } else { 0 };

/// Shuts them for this thread and for what it starts.
pub(super) fn shut() -> io::Result<()> {
    let program = filter().map_err(io::Error::other)?;
    seccompiler::apply_filter(&program).map_err(io::Error::other)
}

fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules = vec![
        (libc::SYS_socket, sockets()?),
        // One of a pair of datagrams could be sent on to any name.
        (libc::SYS_socketpair, vec![rule([of_type(libc::SOCK_DGRAM)?])?]),
    ];
    rules.extend(NEVER.map(|call| (call, Vec::new())));
    for (call, argument) in OTHERS {
        rules.push((call, vec![rule([is_not(argument, 0)?])?]));
    }
    // With 0 these two mean all processes of the account.
    rules
        .push((libc::SYS_setpriority, vec![rule([is_not(1, 0)?])?, rule([is(0, libc::PRIO_USER.into())?])?]));
    rules.push((libc::SYS_ioprio_set, vec![rule([is_not(1, 0)?])?, rule([is(0, IOPRIO_WHO_USER)?])?]));
    let all = rules.iter().map(|(call, rules)| (call | X32, rules.clone())).collect::<Vec<_>>();
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let all = all.into_iter().chain(rules).collect();
    SeccompFilter::new(all, SeccompAction::Allow, refused, std::env::consts::ARCH.try_into()?)?.try_into()
}

/// All sockets but those of plain TCP. Of the machine's own, Landlock judges the abstract ones only.
fn sockets() -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    const OTHER_TYPES: [i32; 5] =
        [libc::SOCK_DGRAM, libc::SOCK_RAW, libc::SOCK_RDM, libc::SOCK_SEQPACKET, libc::SOCK_DCCP];
    let (v4, v6, tcp) = (libc::AF_INET as u64, libc::AF_INET6 as u64, libc::IPPROTO_TCP as u64);
    let mut rules = vec![
        rule([is_not(0, v4)?, is_not(0, v6)?])?,
        // 0 is the usual one of the type.
        rule([is_not(2, 0)?, is_not(2, tcp)?])?,
    ];
    for other in OTHER_TYPES {
        rules.push(rule([of_type(other)?])?);
    }
    Ok(rules)
}

fn rule<const N: usize>(all: [SeccompCondition; N]) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(all.into())
}

fn is_not(argument: u8, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value)
}

fn is(argument: u8, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

fn of_type(kind: i32) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(TYPE), kind as u64)
}
