/* Hints of new leaders that a broker's fetch reply carries (KIP-951) are left unread.
 *
 * librdkafka up to 2.12 reads them past what it has filled in: a hint for a topic without id looks a name up that is
 * NULL, one without leader leaves partitions that were never set (confluentinc/librdkafka, issue 5280). Either ends the
 * process, with everything else that it does. A topic that is deleted while it is followed is enough.
 *
 * Nothing is lost with them: the error that such a reply carries as well makes the client ask for metadata, as clients
 * did before there were hints. The linker puts this in place of the library's function (`--wrap`); see build.rs. It can
 * go with the first release of librdkafka that has the defect mended. */

enum { HANDLED = 1 }; /* RD_KAFKA_OP_RES_HANDLED: who calls frees the hints. */

int __wrap_rd_kafka_metadata_update_op(void *client, void *hints);

int __wrap_rd_kafka_metadata_update_op(void *client, void *hints) {
    (void)client;
    (void)hints;
    return HANDLED;
}
