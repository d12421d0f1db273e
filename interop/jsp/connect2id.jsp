<%-- Stands for the Connect2id server: reads the header that op.tls.clientX509CertHeader names, and parses its value as
     X509CertUtils of Nimbus JOSE + JWT does, the library of the same makers. --%>
<%@ page contentType="text/plain; charset=UTF-8" trimDirectiveWhitespaces="true"
    import="java.io.ByteArrayInputStream, java.nio.charset.StandardCharsets, java.security.cert.Certificate,
            java.security.cert.CertificateException, java.security.cert.CertificateFactory, java.util.Base64,
            java.util.Collections, java.util.List" %>
<%!
    private static final String BEGIN = "-----BEGIN CERTIFICATE-----", END = "-----END CERTIFICATE-----";

    private static Certificate parse(String pem) throws CertificateException {
        String text = pem.substring(pem.indexOf(BEGIN) + BEGIN.length(), pem.indexOf(END)).replaceAll("\\s", "");
        return factory(Base64.getDecoder().decode(text));
    }

    private static Certificate factory(byte[] octets) throws CertificateException {
        return CertificateFactory.getInstance("X.509").generateCertificate(new ByteArrayInputStream(octets));
    }

    private static String bare(String pem) {
        try {
            factory(pem.getBytes(StandardCharsets.US_ASCII));
            return "parsed";
        } catch (CertificateException error) {
            return "refused";
        }
    }
%>
<%
    List<String> values = Collections.list(request.getHeaders(System.getProperty("op.tls.clientX509CertHeader")));
    out.print("headers: " + values.size() + "\n");
    for (String value : values) {
        out.print("certificate: " + Base64.getEncoder().encodeToString(parse(value).getEncoded()) + "\n");
        out.print("bare factory: " + bare(value) + "\n");
    }
%>
