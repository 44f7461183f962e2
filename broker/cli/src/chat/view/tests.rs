//! Screens as people see them.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::{Color, Modifier};

use super::{Paint, Zone, draw};
use crate::chat::model::keys::Key;
use crate::chat::model::log::Told;
use crate::chat::model::state::{Look, News, Person};
use crate::chat::model::tests::{NOON, World, answer, reaction, room, said, who};

const PLAIN: Paint = Paint {
    colour: false,
    unicode: true,
    zone: Zone::Utc,
};

fn screen(world: &mut World, width: u16, height: u16, paint: Paint) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let chat = &mut world.chat;
    let mut drawn = chat.drawn;
    terminal
        .draw(|frame| drawn = draw(frame, chat, &paint))
        .unwrap();
    chat.drawn = drawn;
    terminal
}

/// The rows of a screen, without what fills them up.
fn rows(world: &mut World, width: u16, height: u16, paint: Paint) -> Vec<String> {
    let terminal = screen(world, width, height, paint);
    let buffer = terminal.backend().buffer();
    (0..height)
        .map(|y| {
            let mut row = String::new();
            let mut skip = 0usize;
            for x in 0..width {
                let symbol = buffer[(x, y)].symbol();
                if skip == 0 {
                    row.push_str(symbol);
                }
                skip = crate::chat::model::wrap::columns(symbol)
                    .saturating_sub(1)
                    .max(skip.saturating_sub(1));
            }
            row.trim_end().to_owned()
        })
        .collect()
}

fn tea() -> World {
    let (me, ann, bob) = (who(1), who(2), who(3));
    let mut world = World::with_marks(&[("garden", 1), ("kitchen", 9)]);
    let told = vec![
        said(1, &ann, "tea?"),
        answer(2, &me, "yes, please", Some(1), None),
        reaction(3, &me, 1, "🫖"),
        reaction(4, &bob, 1, "🫖"),
        answer(5, &ann, "milk?", None, Some(1)),
        said(
            6,
            &bob,
            "世界 hello \x1b[31mworld, this is a long line that has to be broken",
        ),
    ];
    world.open("kitchen", told, 6);
    world.open("garden", vec![said(2, &ann, "x"), said(3, &ann, "y")], 3);
    world.news(News::Room(room("attic", false)));
    let people = [&me, &ann, &bob]
        .map(|who| Person {
            endpoint: who.endpoint().clone(),
            owner: who.endpoint() == me.endpoint(),
            joined: true,
        })
        .into();
    let look = Some(Look {
        epoch: 2,
        people,
        ..Look::default()
    });
    let room = "kitchen".parse().unwrap();
    world.news(News::Looked { room, look });
    world.tick(NOON + 120_000);
    world
}

#[test]
fn a_room_on_a_terminal_of_80_by_24() {
    let mut world = tea();
    let rows = rows(&mut world, 80, 18, PLAIN);
    let bob = &who(3).endpoint().as_str()[..8].to_owned();
    let wanted = [
        " team.kitchen · end-to-end encrypted, kept · 3 members".to_owned(),
        " team.garden    2 │ ── the beginning of this room ──".into(),
        " team.kitchen     │ ── Mon 30 Nov 2026 ──".into(),
        "invitations       │ 12:31 ann         tea?".into(),
        "+team.attic       │                   🫖 2".into(),
        "                  │                   └ 1 in its thread".into(),
        "                  │                   ┌ ann: tea?".into(),
        "                  │ 12:31 you         yes, please".into(),
        "                  │                   ┆ in the thread of ann: tea?".into(),
        "                  │ 12:31 ann         milk?".into(),
        format!("                  │ 12:31 {bob}    世界 hello [31mworld, this is a long"),
        "                  │                   line that has to be broken".into(),
    ];
    assert_eq!(rows[..wanted.len()], wanted, "{rows:#?}");
    assert!(
        rows[16].starts_with(" ● connected  ·  epoch 2  ·  2 unread elsewhere"),
        "{}",
        rows[16]
    );
    assert_eq!(rows[17], ">");
}

#[test]
fn wide_terminals_show_who_is_here_and_narrow_ones_the_messages_only() {
    let mut world = tea();
    let wide = rows(&mut world, 120, 18, PLAIN);
    assert!(wide[1].ends_with("│ 3 members"), "{}", wide[1]);
    assert!(
        wide.iter().any(|row| row.ends_with("spoke 1 min ago")),
        "{wide:#?}"
    );
    assert!(
        wide.iter()
            .any(|row| row.ends_with("owner, spoke 1 min ago")),
        "{wide:#?}"
    );
    let narrow = rows(&mut world, 40, 10, PLAIN);
    assert!(
        !narrow.iter().any(|row| row.contains("garden")),
        "{narrow:#?}"
    );
    assert!(
        narrow.iter().any(|row| row.contains("12:31 ann")),
        "{narrow:#?}"
    );
}

#[test]
fn any_size_can_be_drawn() {
    let mut world = tea();
    world
        .chat
        .warn("something went wrong that takes many words to tell ".repeat(9));
    for open in ["", "/help", "/members", "/whoami"] {
        world.enter(open);
        for (width, height) in [
            (1, 1),
            (2, 3),
            (10, 4),
            (33, 7),
            (57, 5),
            (100, 3),
            (300, 90),
        ] {
            screen(&mut world, width, height, PLAIN);
        }
        world.key(Key::Esc);
    }
}

#[test]
fn nothing_that_others_write_reaches_the_terminal_raw() {
    let mut world = tea();
    let ann = who(2);
    let hostile = "\x1b]0;mine\x07\u{9b}2J\u{202e}txt.exe\r\x08\x7f\u{feff}";
    world.hear(
        "kitchen",
        said(7, &ann, &crate::chat::model::clean::clean(hostile, 999)),
    );
    let terminal = screen(&mut world, 80, 24, PLAIN);
    for cell in terminal.backend().buffer().content() {
        assert!(!cell.symbol().chars().any(char::is_control), "{cell:?}");
        assert!(!cell.symbol().contains('\u{202e}'), "{cell:?}");
    }
}

#[test]
fn without_colours_there_are_none_and_without_unicode_all_is_ascii() {
    let mut world = tea();
    world.key(Key::Up);
    let ascii = Paint {
        unicode: false,
        ..PLAIN
    };
    for paint in [PLAIN, ascii] {
        let terminal = screen(&mut world, 110, 24, paint);
        let cells = terminal.backend().buffer().content();
        assert!(
            cells
                .iter()
                .all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset)
        );
        assert!(
            cells
                .iter()
                .any(|cell| cell.modifier.contains(Modifier::REVERSED))
        );
        assert!(paint.unicode || cells.iter().all(|cell| cell.symbol().is_ascii()));
    }
    let coloured = Paint {
        colour: true,
        ..PLAIN
    };
    let terminal = screen(&mut world, 110, 24, coloured);
    assert!(
        terminal
            .backend()
            .buffer()
            .content()
            .iter()
            .any(|cell| cell.fg != Color::Reset)
    );
}

#[test]
fn new_messages_are_set_off_and_the_selected_one_is_marked() {
    let mut world = tea();
    world.key(Key::BackTab);
    let shown = rows(&mut world, 80, 18, PLAIN);
    assert!(shown[0].starts_with(" team.garden"), "{shown:#?}");
    assert_eq!(
        shown[1],
        " team.garden      │ ── the beginning of this room ──"
    );
    world.key(Key::Up);
    world.key(Key::Up);
    let shown = rows(&mut world, 80, 18, PLAIN);
    assert!(
        shown
            .iter()
            .any(|row| row.contains("│▸12:31 ann         x")),
        "{shown:#?}"
    );
}

#[test]
fn a_long_room_is_scrolled_by_pages() {
    let mut world = World::new();
    let ann = who(2);
    let told: Vec<Told> = (1..=60)
        .map(|seq| said(seq, &ann, &format!("number {seq}")))
        .collect();
    world.open("kitchen", told, 60);
    let last = rows(&mut world, 80, 24, PLAIN).join("\n");
    assert!(
        last.contains("number 60") && last.contains("number 40") && !last.contains("number 39")
    );
    world.key(Key::PageUp);
    let before = rows(&mut world, 80, 24, PLAIN).join("\n");
    assert!(
        before.contains("number 40") && before.contains("number 20"),
        "{before}"
    );
    assert!(!before.contains("number 41"), "{before}");
    for _ in 0..5 {
        world.key(Key::PageUp);
        rows(&mut world, 80, 24, PLAIN);
    }
    let first = rows(&mut world, 80, 24, PLAIN).join("\n");
    assert!(
        first.contains("the beginning of this room") && first.contains("number 1\n"),
        "{first}"
    );
    for _ in 0..6 {
        world.key(Key::PageDown);
        rows(&mut world, 80, 24, PLAIN);
    }
    assert_eq!(world.chat.selected, None);
}

#[test]
fn a_long_message_is_folded_and_shown_as_a_whole_on_demand() {
    let mut world = World::new();
    let text: String = (1..=40).map(|at| format!("row {at}\n")).collect();
    world.open("kitchen", vec![said(1, &who(2), text.trim_end())], 1);
    let folded = rows(&mut world, 80, 24, PLAIN).join("\n");
    assert!(
        folded.contains("row 11\n") && folded.contains("29 more rows"),
        "{folded}"
    );
    assert!(!folded.contains("row 12"));
    world.key(Key::Up);
    world.key(Key::Enter);
    rows(&mut world, 80, 24, PLAIN);
    world.key(Key::End);
    let end = rows(&mut world, 80, 24, PLAIN).join("\n");
    assert!(end.contains("row 40") && !end.contains("row 11\n"), "{end}");
}
