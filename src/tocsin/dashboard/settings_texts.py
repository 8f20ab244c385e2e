"""The texts of the pages of settings, by their names in `texts.ENGLISH`."""

from __future__ import annotations

from typing import Any

SETTINGS: dict[str, Any] = {
    "provider_titles": {
        "fcm": "Android: Firebase Cloud Messaging",
        "apns": "iOS: Apple Push Notification service",
        "wns": "Windows: WNS",
        "smtp": "E-mail: a relay",
        "vapid": "Web push",
        "sms": "Text messages: a webhook",
        "webpush": "Web push: a webhook",
    },
    "provider_hows": {
        "fcm": "In the Firebase console: project settings, service accounts, «Generate new private key». Its JSON file "
        "is what belongs here, not the google-services.json of the app.",
        "apns": "In Apple's developer account: certificates, identifiers & profiles, keys. The .p8 file can be loaded "
        "once; key id and team id stand beside it.",
        "wns": "In the Azure portal: the app's registration, its client id, tenant, and a client secret's value.",
        "smtp": "Any relay that takes mail by SMTP. 587 goes with starttls, 465 with tls.",
        "vapid": "Browsers need no account: a key is made here. Your pages subscribe with its public half.",
    },
    "provider_fields": {
        "service_account": "Service account (JSON)",
        "style": "Who shows the message",
        "endpoint": "Environment",
        "key": "Key (.p8)",
        "key_id": "Key id",
        "team_id": "Team id",
        "topic": "Topic (bundle id)",
        "client_id": "Client id",
        "client_secret": "Client secret",
        "tenant": "Tenant",
        "host": "Host",
        "port": "Port",
        "tls": "TLS",
        "username": "User name",
        "password": "Password",
        "sender": "Sender",
        "bounce": "Bounces go to",
        "subject": "Where push services reach you",
    },
    "provider_hints": {
        "fcm.service_account": "Pick the file, or paste what is in it.",
        "apns.key": "Pick the file, or paste what is in it.",
        "apns.key_id": "10 letters and digits, also in the file's name: AuthKey_XXXXXXXXXX.p8",
        "apns.team_id": "10 letters and digits, in the corner of Apple's page.",
        "apns.topic": "Such as com.example.app",
        "apns.endpoint": "Apps from Xcode have tokens of the sandbox; TestFlight and the App Store of production.",
        "wns.client_secret": "Its value, not its id.",
        "wns.tenant": "A tenant id or a domain.",
        "smtp.username": "Empty: no log-in.",
        "smtp.sender": "Such as news@example.com",
        "smtp.bounce": "Such as bounces@example.com; empty: to the sender.",
        "vapid.subject": "mailto:ops@example.com, or an https address.",
    },
    "provider_choices": {"sdk": "the app, with CleverTap's SDK", "notification": "Android itself"},
    "endpoints": {
        "": "the vendor's own",
        "https://fcm.googleapis.com": "Google's own",
        "https://api.push.apple.com": "production",
        "https://api.sandbox.push.apple.com": "Apple's sandbox",
    },
    "no_sandbox": "This server knows no sandbox: TOCSIN_SANDBOX_PORT is 0.",
    "providers_there": "Providers are set already, and stay as they are. Settings has them one by one.",
    "use_sandbox": "Use the sandbox",
    "set_real": "Set your own",
    "admins_set_providers": "An admin of this account sets it.",
    "choose_file": "choose a file",
    "secret_kept": "Set. Empty: it stays.",
    "secrets_stay": "Secrets are never shown again. Before it is kept, the vendor is asked whether it takes it; nobody "
    "gets a message.",
    "check_and_save": "Check and save",
    "check_stored": "Check what is stored",
    "save_unasked": "Save it all the same, without asking the vendor",
    "provider_saved": "Saved. It holds from the next message on.",
    "provider_replaced": " No longer set, for it reached the same people: {names}.",
    "not_saved": "{sentence} Nothing was changed. The vendor said: {code}",
    "public_key": "The public key for your pages (applicationServerKey):",
    "set_it": "Set",
    "replace_it": "Replace or check",
    "no_such_provider": "There is no such provider here.",
    "no_secret_key": "What is stored of this provider is encrypted, and this server's TOCSIN_SECRET_KEY has no key for "
    "it. Whoever runs the server has to mend that.",
    "is_needed": "{label} is needed.",
    "not_a_line": "{label} is too long, or holds something that is no letter.",
    "not_a_choice": "{label} has to be one of those offered.",
    "type_again": "Type the password again: it is not sent to another relay by itself.",
    "token_uri_elsewhere": "token_uri in the service account is not Google's.",
    "odd_port": "A port of a mail relay is one of {ports}. Another one is set by whoever runs the server: tocsin "
    "provider set smtp",
    "no_such_host": "No such host is known: check how it is spelled.",
    "inner_host": "This relay is in the server's own network: only whoever runs the server may set it, with tocsin "
    "provider set smtp",
}
