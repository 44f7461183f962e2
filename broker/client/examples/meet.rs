//! Creates a room, invites somebody by contact, says something and prints what is answered:
//! `cargo run -p unibus-client --example meet -- IDENTITY_FILE HTTP_URL NATS_URL CONTACT TEXT [CA_FILE]`.

use unibus_client::{Event, Identity, MembershipChange, NewRoom, Options, Session, Start};

#[tokio::main]
#[allow(clippy::print_stdout, reason = "this is what the example is for")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, http, nats, contact, text, more @ ..] = &arguments[..] else {
        return Err("wanted: IDENTITY_FILE HTTP_URL NATS_URL CONTACT TEXT [CA_FILE]".into());
    };
    let me = Identity::load_or_create(file.as_ref())?;
    let mut options = Options::new().server(http, nats);
    if let [ca, ..] = more {
        options = options.ca(ca);
    }
    let session = Session::connect(me, options).await?;
    let subject = format!("meet.{}", session.identity().endpoint());
    let room = session.create_room(NewRoom::new(subject.parse()?)).await?;
    let guest = Identity::parse_contact(contact)?;
    session.invite(&room, &guest).await?;
    let mut events = session.subscribe(&room, Start::Beginning).await?;
    // Who was quick has joined before anybody listened.
    let members = session.room_info(&room).await?.members;
    let mut said = members
        .iter()
        .any(|member| member.joined && member.party.endpoint == guest.endpoint);
    if said {
        session.publish(&room, text.as_str()).await?;
    }
    while let Some(event) = events.next().await {
        match event {
            Event::Membership(MembershipChange::Joined(who)) if who == guest.endpoint && !said => {
                said = true;
                session.publish(&room, text.as_str()).await?;
            }
            Event::Message(message) if *message.from() == guest.endpoint => {
                println!("{}", message.text());
                return Ok(());
            }
            _ => {}
        }
    }
    Err("the room has ended".into())
}
