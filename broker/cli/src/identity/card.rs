//! A card: what an inviter has to know of somebody, on one line: `U…:<key-agreement key in hex>`. Pure.

use unibus_proto::control::Party;

/// Somebody's card.
pub(crate) fn card(party: &Party) -> String {
    format!("{}:{}", party.sign_pub.0.to_nkey(), party.kex_pub)
}

#[cfg(test)]
mod tests {
    use super::card;
    use unibus_client::Identity;

    #[test]
    fn a_card_says_both_keys_and_no_secret() {
        let me = Identity::generate().unwrap();
        let text = card(me.party());
        let (sign, kex) = text.split_once(':').unwrap();
        assert_eq!(sign, me.nkey());
        assert_eq!(kex, me.party().kex_pub.as_str());
    }
}
