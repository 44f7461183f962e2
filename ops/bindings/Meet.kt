// What an application in Kotlin does with the generated bindings: meets somebody in a room, talks, shares a
// file, reconnects. Says `invited ROOM` when the other may join, and `done` at the end.
// arguments: IDENTITY CONTROL NATS CONTACT

import kotlin.system.exitProcess
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout
import uniffi.unibus.*

/** The next event of a kind; others are let pass. */
suspend inline fun <reified T : RoomEvent> Subscription.until(): T = withTimeout(60_000) {
    while (true) {
        val event = next() ?: error("the subscription ended")
        if (event is T) return@withTimeout event
    }
    error("unreachable")
}

fun same(found: Any?, wanted: Any?) = check(found == wanted) { "$found, wanted $wanted" }

/** A call that has to fail with a kind of error, in words. */
suspend inline fun <reified T : BusException> refused(crossinline call: suspend () -> Unit) {
    try {
        call()
    } catch (error: BusException) {
        check(error is T && !error.message.isNullOrEmpty()) { "refused with $error" }
        return
    }
    error("not refused")
}

suspend fun meet(identity: String, control: String, nats: String, contact: String) {
    val me = Identity.load(identity)
    check(me.contact().startsWith("unibus-contact:"))
    val session = Session.connect(me, ConnectOptions(listOf(Server(control, nats))))
    val policy = RoomPolicy(encrypted = true, persisted = true, sharedHistory = false)
    val room = session.createRoom("team.kotlin", policy)
    val events = session.subscribe(room, StartAt.Beginning)
    events.until<RoomEvent.CaughtUp>()

    val root = session.publish(room, Speech("tea?".toByteArray()))
    session.react(room, root.id, "🫖")
    session.publish(room, Speech("milk?".toByteArray(), thread = root.id))
    val said = events.until<RoomEvent.Said>().said
    same(listOf(said.text, said.sender, said.id), listOf("tea?", me.endpoint(), root.id))
    same(events.until<RoomEvent.Reacted>().reaction, "🫖")
    same(events.until<RoomEvent.Said>().said.thread, root.id)

    val content = ByteArray(300_000) { (it % 251).toByte() }
    session.share(room, session.putBlob(content, "numbers.bin", null))
    val shared = events.until<RoomEvent.Shared>()
    same(shared.name to shared.size, "numbers.bin" to content.size.toULong())
    check(session.getBlob(shared.reference).contentEquals(content)) { "other bytes" }

    session.invite(room, contact)
    println("invited $room")
    events.until<RoomEvent.Joined>()
    val heard = events.until<RoomEvent.Said>().said
    val answer = session.reply(room, heard.id, "you said: ${heard.text}")
    session.refreshSession()
    val page = session.history(room, HistoryPart.After(answer.seq!! - 1uL, 10u))
    same((page.events[0] as RoomEvent.Said).said.replyTo, heard.id)
    same(session.roomInfo(room).members.size, 2)

    refused<BusException.Invalid> { session.join("no such room") }
    refused<BusException.Refused> { session.join("nosuchroom") }
    session.disconnect()
    while (withTimeout(60_000) { events.next() } != null) { /* what was on its way */ }
    println("done")
}

fun main(arguments: Array<String>) {
    val (identity, control, nats, contact) = arguments
    runBlocking { meet(identity, control, nats, contact) }
    // Threads of the foreign runtime would keep the virtual machine.
    exitProcess(0)
}
