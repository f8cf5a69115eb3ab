/* Limits of one SIP worker process.  Copied to pjlib/include/pj/config_site.h by build.sh; tests/deploy checks the wheel
 * against this file. */
#define PJSUA_MAX_CALLS             1024    /* calls of one process; the library answers 486 beyond */
#define PJSUA_MAX_ACC               256     /* accounts = trunks and registrations of one process */
#define PJSUA_MAX_CONF_PORTS        4096    /* per call one stream and one Python port, and room for ports not yet freed */
#define PJ_IOQUEUE_MAX_HANDLES      8192    /* RTP and RTCP socket per call, kept 500 ms after closing, and SIP over TCP */
#define PJSIP_MAX_TSX_COUNT         16383   /* 2^n - 1: transactions linger 32 s, at 100 calls/s two per call */
#define PJSIP_MAX_DIALOG_COUNT      8191    /* 2^n - 1 */
#define PJMEDIA_HAS_SRTP            1
#define PJMEDIA_SRTP_HAS_DTLS       1
#define PJMEDIA_HAS_OPUS_CODEC      1
#define PJMEDIA_HAS_VIDEO           0
#define PJ_HAS_IPV6                 1       /* sound of telephones over IPv6 (`rtp_host6`) */
