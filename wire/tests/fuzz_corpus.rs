//! The fuzz targets' checks on the corpus of acceptance check 15, and on mutations of it for a bounded time.

use std::time::{Duration, Instant};

use jetway_wire::{Envelope, frame};

#[path = "../fuzz/checks.rs"]
mod checks;
mod corpus;

#[test]
fn the_corpus_is_taken_or_refused_as_it_should_be() {
    for (stream, sound) in corpus::streams() {
        let mut decoder = frame::Decoder::new(frame::Caps { header: 1024, body: 1 << 20 });
        let mut batch = decoder.feed(&stream);
        let outcome = loop {
            match batch.next() {
                Ok(Some(_)) => {}
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        assert_eq!(outcome, sound, "{:?}", String::from_utf8_lossy(&stream[..stream.len().min(200)]));
    }
    for (body, good) in corpus::bodies() {
        let begun = Instant::now();
        let outcome = Envelope::strict(&body, checks::DEPTH);
        assert_eq!(outcome.is_ok(), good, "{:?}", String::from_utf8_lossy(&body[..body.len().min(200)]));
        // Check 17.
        assert!(begun.elapsed() < Duration::from_millis(50));
    }
}

#[test]
fn mutations_of_the_corpus_break_nothing() {
    let (seed, until) = (seed(), Instant::now() + Duration::from_secs(3));
    println!("seed {seed}; JETWAY_FUZZ_SEED repeats it");
    let mut random = corpus::Random::new(seed);
    let small = |(bytes, _): (Vec<u8>, bool)| Some(bytes).filter(|bytes| bytes.len() < 4096);
    let bodies: Vec<_> = corpus::bodies().into_iter().filter_map(small).collect();
    let streams: Vec<_> = corpus::streams().into_iter().filter_map(small).collect();
    let mut runs = 0;
    while Instant::now() < until {
        for _ in 0..100 {
            let mut body = bodies[random.below(bodies.len())].clone();
            corpus::mutate(&mut body, &mut random);
            checks::json(&body);
            checks::envelope(&body);
            body.insert(0, random.below(256) as u8);
            checks::catalogue(&body);
            let mut stream = streams[random.below(streams.len())].clone();
            corpus::mutate(&mut stream, &mut random);
            stream.insert(0, random.below(256) as u8);
            checks::frame(&stream);
            runs += 1;
        }
    }
    println!("CHECK 22: {runs} mutations, 0 crashes");
}

fn seed() -> u64 {
    let given = std::env::var("JETWAY_FUZZ_SEED").ok();
    given.map_or_else(|| u64::from(std::process::id()) << 20 | 0x5eed, |seed| seed.parse().expect("a number"))
}
