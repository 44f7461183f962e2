//! Queue groups on one node.

use crate::support::Node;

#[tokio::test]
async fn each_group_gets_one_copy_and_members_share() {
    let node = Node::start().await;
    let mut members = Vec::new();
    for _ in 0..3 {
        let mut member = node.client().await;
        member.send("SUB work.* a 1\r\nSUB work.> b 2\r\n").await;
        member.flush().await;
        members.push(member);
    }
    let mut publisher = node.client().await;
    publisher.send(&"PUB work.x 1\r\nx\r\n".repeat(600)).await;
    publisher.flush().await;
    let mut total = 0;
    for member in &mut members {
        let got = member.count_messages().await;
        assert!(got > 200, "random members share the load: {got}");
        total += got;
    }
    assert_eq!(total, 1200);
}

#[tokio::test]
async fn one_group_over_two_filters_gets_one_copy() {
    let node = Node::start().await;
    let mut raw = node.client().await;
    raw.send("SUB work.x g 1\r\nSUB work.* g 2\r\n").await;
    raw.send(&"PUB work.x 1\r\nx\r\n".repeat(50)).await;
    assert_eq!(raw.count_messages().await, 50);
}
